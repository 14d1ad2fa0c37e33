"""The bridge's numpy twin against torch and against the formula."""

import numpy as np
import pytest

from dvgwm.runtime.backends.resample import bridge, upsample


@pytest.mark.torch
@pytest.mark.parametrize("size", [(3, 8, 10), (5, 7, 9), (3, 4, 5), (2, 3, 4)])
def test_upsample_is_torchs_trilinear(size):
    torch = pytest.importorskip("torch", reason="the export extra is not installed")
    latents = np.random.default_rng(1).standard_normal((1, 3, 2, 4, 5), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(latents).permute(0, 2, 1, 3, 4), size, mode="trilinear", align_corners=False
    ).permute(0, 2, 1, 3, 4)
    assert np.abs(upsample(latents, size) - expected.numpy()).max() < 1e-6


def test_bridge_is_the_papers_formula():
    rng = np.random.default_rng(2)
    latents = rng.standard_normal((1, 2, 3, 2, 2), np.float32)
    noise = rng.standard_normal((1, 2, 3, 4, 4), np.float32)
    scale, shift = np.asarray([1.0, 2.0, 3.0], np.float32), np.asarray([0.0, 1.0, -1.0], np.float32)
    start = bridge(latents, scale, shift, noise, 0.859, 0.513)
    expected = 0.859 * upsample(latents * scale[:, None, None] + shift[:, None, None], (2, 4, 4)) + 0.513 * noise
    assert np.allclose(start, expected, atol=1e-6)
    assert not np.allclose(start, bridge(latents, scale, shift, noise, 0.859, 0.4), atol=1e-2)


def test_constants_stay_constant():
    assert np.allclose(upsample(np.full((1, 2, 1, 3, 3), 0.25, np.float32), (4, 6, 6)), 0.25)
