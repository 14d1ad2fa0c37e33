"""Latents from one grid and scale to another: the plain numpy twin of the bridge kernel."""

import numpy as np

from ..types import FloatArray


def upsample(latents: FloatArray, size: tuple[int, int, int]) -> FloatArray:
    """Return ``latents`` (1 T C H W) linearly resampled to ``size`` (T, H, W), as torch's trilinear without corners."""
    frames, height, width = size
    for axis, target in ((1, frames), (3, height), (4, width)):
        latents = _linear(latents, axis, target)
    return latents


def bridge(
    latents: FloatArray, scale: FloatArray, shift: FloatArray, noise: FloatArray, signal: float, strength: float
) -> FloatArray:
    """Return the refiner's start ``signal * U(scale * latents + shift) + strength * noise`` (DVG-WM, Eq. A.8).

    ``latents`` is float32 1 T C H W; ``scale`` and ``shift`` carry one number per channel from the preview's latent
    scaling to the refiner's; ``noise`` has the result's shape.
    """
    rescaled = latents * scale[:, None, None] + shift[:, None, None]
    _, frames, _, height, width = noise.shape
    return np.asarray(signal * upsample(rescaled, (frames, height, width)) + strength * noise, np.float32)


def _linear(values: FloatArray, axis: int, target: int) -> FloatArray:
    source = values.shape[axis]
    if source == target:
        return values
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, source - 1)
    weight = (position - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return np.asarray(values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight)
