"""A backend whose memory is the host's: numpy arrays, numpy twins of the kernels, engines from a given loader."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..sampler import Step, advance
from ..types import FloatArray, Tensor
from . import resample
from .backend import Engine, EngineSpec


@dataclass(frozen=True, slots=True)
class HostBackend:
    """`backend.Backend` on numpy arrays; ``loader`` opens one engine file."""

    name: str
    loader: Callable[[Path, EngineSpec], Engine]

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return {}

    def load(self, path: Path, spec: EngineSpec) -> Engine:
        return self.loader(path, spec)

    def upload(self, array: NDArray[np.generic]) -> Tensor:
        return np.array(array)

    def download(self, tensor: Tensor) -> NDArray[np.generic]:
        return np.array(tensor)

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        return np.concatenate(tensors)

    def affine_step(
        self, step: Step, state: Tensor, velocity: Tensor, history: Tensor | None, noise: Tensor | None
    ) -> None:
        advance(step, state, velocity, history, noise)

    def bridge(
        self, latents: Tensor, scale: FloatArray, shift: FloatArray, noise: Tensor, signal: float, strength: float
    ) -> Tensor:
        return resample.bridge(latents, scale, shift, noise, signal, strength)

    def finite(self, tensor: Tensor) -> bool:
        return finite(tensor)

    def mark(self) -> Tensor:
        return time.perf_counter()

    def elapsed(self, start: Tensor, end: Tensor) -> float:
        return float(end - start)

    def synchronize(self) -> None:
        """Do nothing: the host is idle when a call returns."""


def finite(array: NDArray[np.generic]) -> bool:
    """Return whether every number of ``array`` is finite."""
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
