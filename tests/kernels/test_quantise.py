"""Tokens in FP8, and the linear layer that reads them, against float64."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

from dvgwm.kernels.quantise import compiled_quantise, plain_quantise, quantise_rows
from dvgwm.kernels.scaled_linear import scaled_linear

# numpy, which the interpreter computes with, warns where exp overflows to the infinity that is wanted.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")]


@pytest.fixture(autouse=True)
def has_fp8(device):
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no FP8")


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 64), (2, 9, 192), (1, 5, 100)], ids=str)
def test_parity(randn, relative, device, shape, gelu):
    x = randn(*shape) * 3
    numbers, scales = compiled_quantise(x, gelu)
    wanted, wanted_scales = plain_quantise(x.double(), gelu)
    assert relative(scales, wanted_scales) < 1e-5
    # The interpreter rounds up to a power of two wrongly (126 becomes 64).
    assert (numbers.float() != wanted.float()).float().mean() < (0.1 if device == "cpu" else 1e-3)
    exact = torch.nn.functional.gelu(x.double(), approximate="tanh") if gelu else x.double()
    assert relative(wanted.double() * wanted_scales[..., None].double(), exact) < 0.04


def test_strided_and_silent_rows(randn, relative):
    x = randn(9, 2, 192).transpose(0, 1)
    x[0, 3] = 0
    numbers, scales = compiled_quantise(x, False)
    assert relative(scales[0, 4:], plain_quantise(x, False)[1][0, 4:]) < 1e-5
    assert not numbers[0, 3].float().any()
    assert scales.isfinite().all()


def test_gelu_matters(randn, relative):
    """Negative control."""
    x = randn(2, 9, 192)
    assert relative(compiled_quantise(x, True)[1], plain_quantise(x, False)[1]) > 1e-3


def test_a_linear_layer_in_fp8_is_within_five_percent(randn, relative, device):
    x, weight, bias = randn(2, 32, 64), randn(48, 64), randn(48)
    exact = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    made = scaled_linear(*quantise_rows(x), *quantise_rows(weight), bias.to(dtype))
    assert made.shape == (2, 32, 48)
    assert 1e-3 < relative(made, exact) < 0.05
