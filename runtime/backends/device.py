"""A backend whose memory is a GPU's: arrays there, kernels compiled ahead of time, engines from a given loader."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShapeError
from ..sampler import Step
from ..types import FloatArray, Tensor
from .backend import Engine, EngineSpec
from .device_array import Device, DeviceArray, empty, storage, viewed
from .host import finite

_KINDS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class DeviceBackend:
    """`backend.Backend` on arrays of ``device``; ``loader`` opens one engine file."""

    def __init__(self, name: str, device: Device, loader: Callable[[Path, EngineSpec], Engine]) -> None:
        self.name, self.device, self._loader = name, device, loader

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return self.device.facts

    def load(self, path: Path, spec: EngineSpec) -> Engine:
        return self._loader(path, spec)

    def upload(self, array: Any) -> DeviceArray:
        if hasattr(array, "__cuda_array_interface__"):
            return self.concatenate([array])
        dense = np.ascontiguousarray(array).reshape(np.shape(array))  # numpy makes one number an array of one
        made = empty(self.device, dense.shape, dense.dtype.name)
        self.device.write(made.address, dense)
        return made

    def download(self, tensor: Tensor) -> NDArray[np.generic]:
        seen = viewed(self.device, tensor)
        array: NDArray[np.generic] = np.empty(seen.shape, storage(seen.dtype))
        self.device.read(array, seen.address)
        return (array.astype(np.uint32) << 16).view(np.float32) if seen.dtype == "bfloat16" else array

    def concatenate(self, tensors: Sequence[Tensor]) -> DeviceArray:
        parts = [viewed(self.device, tensor) for tensor in tensors]
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:]) if parts[0].shape else ()
        made, at = empty(self.device, shape, parts[0].dtype), 0
        for part in parts:
            self.device.copy(made.address + at, part.address, part.nbytes)
            at += part.nbytes
        return made

    def normalise(self, latents: Tensor, mean: FloatArray, std: FloatArray) -> DeviceArray:
        # The bridge to the same size, without its noise: within rounding what was asked for, and nothing leaves the device.
        return self.bridge(latents, 1.0 / std, -mean / std, latents, 1.0, 0.0)

    def affine_step(
        self, step: Step, state: Tensor, velocity: Tensor, history: Tensor | None, noise: Tensor | None
    ) -> None:
        x, v = viewed(self.device, state), viewed(self.device, velocity)
        h, xi = (None if tensor is None else viewed(self.device, tensor) for tensor in (history, noise))
        branches = v.shape[0] // x.shape[0]
        self.device.affine_step(step, x, v, h, xi, prod(x.shape), branches, (_kind(x), _kind(v)))

    def bridge(
        self, latents: Tensor, scale: FloatArray, shift: FloatArray, noise: Tensor, signal: float, strength: float
    ) -> DeviceArray:
        source, xi = viewed(self.device, latents), viewed(self.device, noise)
        channels = source.shape[2]
        numbers = [self.upload(np.broadcast_to(values, (channels,)).astype(np.float32)) for values in (scale, shift)]
        output = empty(self.device, xi.shape, xi.dtype)
        sizes = (source.shape[1], channels, *source.shape[3:], xi.shape[1], *xi.shape[3:])
        self.device.bridge(output, source, *numbers, xi, signal, strength, sizes, _kind(source))
        return output

    def finite(self, tensor: Tensor) -> bool:
        return finite(tensor if isinstance(tensor, np.ndarray) else self.download(tensor))

    def mark(self) -> Any:
        return self.device.mark()

    def wait(self, mark: Any) -> None:
        self.device.wait(mark)

    def elapsed(self, start: Any, end: Any) -> float:
        return self.device.elapsed(start, end)

    def synchronize(self) -> None:
        self.device.synchronize()


def _kind(array: DeviceArray) -> str:
    """Return the dtype's name in kernels; raises `ShapeError` for one that they do not know."""
    if array.dtype not in _KINDS:
        raise ShapeError("ARRAY_DTYPE", f"wanted {', '.join(_KINDS)} in a kernel, got {array.dtype}")
    return _KINDS[array.dtype]
