"""A backend whose memory is the host's: numpy arrays, numpy twins of the kernels, engines from a given loader."""

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

    def normalise(self, latents: Tensor, mean: FloatArray, std: FloatArray) -> Tensor:
        return (np.asarray(latents, np.float32) - mean[:, None, None]) / std[:, None, None]

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

    def mark(self) -> None:
        """Return nothing: the host's work is done when a call returns."""

    def wait(self, mark: Tensor) -> None:
        """Do nothing, as there is nothing to wait for."""

    def elapsed(self, start: Tensor, end: Tensor) -> float:
        """Return nothing: no mark is given, so that no time lies between two."""
        return 0.0

    def synchronize(self) -> None:
        """Do nothing, as there is nothing to wait for."""


def finite(array: NDArray[np.generic]) -> bool:
    """Return whether every number of ``array`` is finite."""
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
