"""The fused bridge against torch's interpolation in float64 and against the runtime's numpy twin."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

from dvgwm.kernels.bridge import bridge, compiled_bridge, plain_bridge
from dvgwm.runtime.backends import resample

pytestmark = pytest.mark.torch

SIZES = [((1, 1, 1), (1, 1, 1)), ((5, 4, 6), (7, 9, 11)), ((13, 8, 12), (13, 16, 24)), ((3, 32, 48), (3, 60, 90))]


def inputs(randn, source, target, dtype=torch.float32, channels=3):
    latents = randn(1, source[0], channels, *source[1:], dtype=dtype)
    noise = randn(1, target[0], channels, *target[1:], dtype=dtype)
    return latents, randn(channels) + 2, randn(channels), noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_parity(randn, check, sizes, dtype):
    given = inputs(randn, *sizes, dtype)
    reference = plain_bridge(*(tensor.double() for tensor in given), 0.8, 0.6)
    check(compiled_bridge(*given, 0.8, 0.6), reference, dtype)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_runtimes_twin(randn, relative, sizes):
    latents, scale, shift, noise = inputs(randn, *sizes)
    arrays = (tensor.cpu().numpy() for tensor in (latents, scale, shift, noise))
    theirs = resample.bridge(*arrays, 0.8, 0.6)
    assert relative(bridge(latents, scale, shift, noise, 0.8, 0.6), torch.from_numpy(theirs)) < 1e-5


def test_strided_latents(randn, check):
    latents, scale, shift, noise = inputs(randn, *SIZES[1])
    reference = plain_bridge(latents.double(), scale.double(), shift.double(), noise.double(), 0.8, 0.6)
    turned = latents.transpose(1, 2).contiguous().transpose(1, 2)
    check(compiled_bridge(turned, scale, shift, noise, 0.8, 0.6), reference, torch.float32)


def test_corners_are_not_aligned(randn, relative):
    """Negative control: the other convention is far away."""
    latents, scale, shift, noise = inputs(randn, *SIZES[1])
    made = compiled_bridge(latents, scale, shift, noise, 0.8, 0.0)
    rescaled = (latents * scale[:, None, None] + shift[:, None, None]).transpose(1, 2)
    aligned = torch.nn.functional.interpolate(rescaled, (7, 9, 11), mode="trilinear", align_corners=True)
    assert relative(made, 0.8 * aligned.transpose(1, 2)) > 0.05
