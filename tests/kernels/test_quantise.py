"""Tokens in FP8, and the linear layer behind them, against float64."""

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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 64), (2, 9, 192), (1, 5, 100), (1, 3, 640), (1, 2, 1920)], ids=str)
def test_parity(randn, relative, device, shape, dtype, gelu):
    x = randn(*shape, dtype=dtype) * 3
    numbers, scales = compiled_quantise(x, gelu)
    wanted, wanted_scales = plain_quantise(x.double(), gelu)
    approximate = gelu and device == "cuda"  # tanh within 2^-11: most of what differs is next to zero
    assert relative(scales, wanted_scales) < (5e-4 if approximate else 1e-5)
    # The interpreter rounds up to a power of two wrongly (126 becomes 64).
    assert (numbers.float() != wanted.float()).float().mean() < (0.1 if device == "cpu" or approximate else 1e-3)
    exact = torch.nn.functional.gelu(x.double(), approximate="tanh") if gelu else x.double()
    assert relative(wanted.double() * wanted_scales[..., None].double(), exact) < 0.04


def test_strided_and_silent_rows(randn, relative):
    x = randn(9, 2, 192).transpose(0, 1)
    x[0, 3] = 0
    numbers, scales = compiled_quantise(x, False)
    assert relative(scales[0, 4:], plain_quantise(x, False)[1][0, 4:]) < 1e-5
    assert not numbers[0, 3].float().any()
    assert scales.isfinite().all()


def test_the_tanh_of_a_gpu_is_near_enough(randn, relative):
    """A tanh off by 2^-11 of its size, the most in PTX's manual, adds a hundredth to FP8's own error; control: by 2^-5."""
    x = randn(64, 3072).double() * 1.5
    inner = 0.7978845608028654 * (x + 0.044715 * x**3)
    signs = randn(64, 3072).sign()

    def gelu(off):
        return 0.5 * x * (1 + inner.tanh() * (1 + off * signs))

    def error(off):
        numbers, scales = quantise_rows(gelu(off))
        return relative(numbers.double() * scales[..., None], gelu(0))

    assert relative(gelu(2**-11), gelu(0)) < 5e-4
    assert error(2**-11) < 1.01 * error(0) < 0.03
    assert error(2**-5) > 1.2 * error(0)


def test_rows_of_two_parts_and_more_have_one_scale(randn, relative, device):
    """The largest number lies in the last part: the first parts' numbers are small for it."""
    x = randn(1, 2, 640)
    x[..., -1] = 1000
    numbers, scales = compiled_quantise(x, False)
    assert relative(scales, torch.full((1, 2), 1000 / 448)) < 1e-5
    assert numbers.float()[..., :512].abs().max() < 3


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
