"""Kernels run on a GPU where there is one, and in Triton's interpreter on the CPU everywhere."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

BOUNDS = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cpu" and torch.cuda.is_available():
        pytest.skip("Triton's interpreter is for machines without a GPU")
    return request.param


@pytest.fixture
def randn(device):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, dtype=torch.float32):
        return torch.randn(*shape, generator=generator).to(device, dtype)

    return draw


@pytest.fixture
def relative():
    """Relative L2 error against a float64 reference."""

    def error(ours, reference):
        ours, reference = ours.double().cpu(), reference.double().cpu()
        return float((ours - reference).norm() / reference.norm().clamp_min(1e-30))

    return error


@pytest.fixture
def check(relative):
    """Within the dtype's bound, in relative L2 and everywhere against the largest number."""

    def compare(ours, reference, dtype):
        assert ours.dtype == dtype
        assert ours.shape == reference.shape
        assert relative(ours, reference) < BOUNDS[dtype]
        worst = (ours.double().cpu() - reference.double().cpu()).abs().max() / reference.double().cpu().abs().max()
        assert worst < 2 * BOUNDS[dtype]

    return compare
