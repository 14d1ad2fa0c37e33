"""All noise, drawn on the host, so that every backend sees the same numbers."""

import hashlib

import numpy as np

from .types import FloatArray


def draw(seed: int, stage: str, step: int, shape: tuple[int, ...]) -> FloatArray:
    """Return standard normal noise, float32, that depends on (seed, stage, step) alone; ``shape`` only folds it."""
    digest = hashlib.sha256(f"{seed}/{stage}/{step}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    return generator.standard_normal(shape, np.float32)
