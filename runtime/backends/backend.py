"""The seam between the pipeline and one engine library: what an engine and a backend must do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleIncompatibleError
from ..sampler import Step
from ..types import FloatArray, Tensor, TensorSpec


@dataclass(frozen=True, slots=True)
class Footprint:
    """How much memory an engine takes, counted on its graph when it was exported.

    ``weights`` are those that it computes with, ``cast`` those that it makes them of where they are stored in another dtype.
    ``working`` is the most that is alive at once of inputs, outputs and what lies between them; ``unfused`` the same in a
    library that writes all scores of attention out.
    """

    weights_bytes: int
    cast_bytes: int
    working_bytes: int
    unfused_bytes: int


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What the manifest says of one engine.

    ``carry`` pairs an output with the input that takes it in the next run (the decoder's convolution cache); ``flop``
    is the work of one run with one guidance branch, counted when the engine was exported; ``weights`` names the file
    that holds the weights where the engine's own does not. A bundle of before has no ``footprint``.
    """

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    carry: Mapping[str, str]
    flop: float
    weights: str = ""
    footprint: Footprint | None = None

    def input(self, name: str) -> TensorSpec:
        """Return what is said of the input ``name``; raises `BundleIncompatibleError` where there is none."""
        for spec in self.inputs:
            if spec.name == name:
                return spec
        raise BundleIncompatibleError("ENGINE_INPUT", f"{self.file}: wanted an input {name!r}; rebuild the bundle")


class Engine(Protocol):
    """A loaded network: named tensors in, named tensors out."""

    @property
    def spec(self) -> EngineSpec:
        """Its interface and its work."""

    def warmup(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor]:
        """Make buffers for these input shapes, so that `run` allocates nothing, and return what zeros give."""

    def run(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the outputs, valid until the next `run`; carried outputs stay valid for one run more.

        Raises `ShapeError` where an input is missing, unknown or does not fit its spec.
        """

    def close(self) -> None:
        """Free the engine."""


class Backend(Protocol):
    """Memory, elementwise kernels and engine loading of one library."""

    @property
    def name(self) -> str:
        """What the manifest calls it."""

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What compiled engines depend on here, such as the GPU's name; empty where engines are portable."""

    def load(self, path: Path, spec: EngineSpec) -> Engine:
        """Load the engine at ``path``; raises `BundleIncompatibleError` where its interface differs from ``spec``."""

    def upload(self, array: NDArray[np.generic]) -> Tensor:
        """Return a device copy of ``array``."""

    def download(self, tensor: Tensor) -> NDArray[np.generic]:
        """Return a host copy of ``tensor``."""

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the tensors joined along their first axis, as a copy of their own also where there is one only."""

    def normalise(self, latents: Tensor, mean: FloatArray, std: FloatArray) -> Tensor:
        """Return ``(latents - mean) / std``, float32 1 T C H W; ``mean`` and ``std`` hold one number per channel, or one."""

    def affine_step(
        self, step: Step, state: Tensor, velocity: Tensor, history: Tensor | None, noise: Tensor | None
    ) -> None:
        """Advance ``state`` and ``history`` in place by one row of a sampler (see `sampler.Step`)."""

    def bridge(
        self, latents: Tensor, scale: FloatArray, shift: FloatArray, noise: Tensor, signal: float, strength: float
    ) -> Tensor:
        """Return ``signal * upsample(scale * latents + shift) + strength * noise``, 1 T C H W as the noise.

        ``latents`` is 1 t C h w, ``scale`` and ``shift`` hold one number per channel.
        """

    def finite(self, tensor: Tensor) -> bool:
        """Return whether every number of ``tensor`` is finite: one reduction where it lies, numpy's on the host."""

    def mark(self) -> Tensor | None:
        """Return a mark on the device's own time line; None where it has none, because a call returns when its work is done."""

    def wait(self, mark: Tensor) -> None:
        """Wait until the device has come to ``mark``, however much it was given behind it."""

    def elapsed(self, start: Tensor, end: Tensor) -> float:
        """Return the seconds between two marks, after waiting for the second."""

    def synchronize(self) -> None:
        """Wait until the device is idle."""
