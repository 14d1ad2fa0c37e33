"""A backend whose memory is a GPU's: arrays there, kernels compiled ahead of time, engines from a given loader."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InternalError, ShapeError
from ..sampler import Step
from ..types import FloatArray, Tensor
from .backend import Engine, EngineSpec
from .host import finite


class Memory(Protocol):
    """A piece of the device's memory, which is free again when nothing refers to it."""

    @property
    def address(self) -> int:
        """Where it begins, a multiple of 256."""


class Device(Protocol):
    """What a GPU does for a backend, in the order in which it is asked: all on one stream."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What compiled engines depend on: gpu, capability, driver."""

    @property
    def stream(self) -> int:
        """The stream's handle."""

    def allocate(self, nbytes: int) -> Memory:
        """Return so much memory."""

    def write(self, address: int, array: NDArray[np.generic]) -> None:
        """Copy a contiguous ``array`` of the host to ``address``; it may change as soon as this returns."""

    def read(self, array: NDArray[np.generic], address: int) -> None:
        """Fill a contiguous ``array`` of the host from ``address``, and wait until it is filled."""

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the device."""

    def follow(self, stream: int) -> None:
        """Do what comes next only after what the stream with this handle was given until now."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return what does again what ``work`` gives the stream, as one launch; ``work`` itself is not done."""

    def affine_step(self, *arguments: Any) -> None:
        """Do a sampler's row: the arguments of `cuda.CudaKernels.affine_step`, all but its stream."""

    def bridge(self, *arguments: Any) -> None:
        """Make the refiner's start: the arguments of `cuda.CudaKernels.bridge`, all but its stream."""

    def mark(self) -> Any:
        """Return a mark on the stream's time line."""

    def elapsed(self, start: Any, end: Any) -> float:
        """Return the seconds between two marks."""

    def synchronize(self) -> None:
        """Wait until the stream is idle."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceArray:
    """A contiguous array in the device's memory, which ``owner`` keeps; work on it is ordered by ``stream``."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    address: int
    stream: int
    owner: Any = None

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What pycuda, CuPy and torch take an array by: version 3."""
        facts = {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False)}
        return facts | {"strides": None, "stream": self.stream, "version": 3}

    def __getitem__(self, key: slice | tuple[slice, ...]) -> "DeviceArray":
        """Return the part that slices cut out, in the same memory; raises `InternalError` where it is not contiguous."""
        key = key if isinstance(key, tuple) else (key,)
        bounds = [part.indices(size) for part, size in zip(key, self.shape, strict=False)]
        lengths = [max(end - begin, 0) for begin, end, _ in bounds]
        cut = max((axis for axis, length in enumerate(lengths) if length != self.shape[axis]), default=0)
        if any(step != 1 for *_, step in bounds) or any(length != 1 for length in lengths[:cut]):
            raise InternalError("ARRAY_SLICE", f"wanted a contiguous part of {list(self.shape)}, got {key}")
        strides = [prod(self.shape[axis + 1 :]) for axis in range(len(bounds))]
        offset = sum(begin * stride for (begin, _, _), stride in zip(bounds, strides, strict=True))
        shape = (*lengths, *self.shape[len(lengths) :])
        return DeviceArray(shape, self.dtype, self.address + offset * self.dtype.itemsize, self.stream, self)


def empty(device: Device, shape: Sequence[int], dtype: Any) -> DeviceArray:
    """Return a new array on ``device``, its numbers whatever they are."""
    kind = np.dtype(dtype)
    memory = device.allocate(max(prod(shape) * kind.itemsize, 1))
    return DeviceArray(tuple(shape), kind, memory.address, device.stream, memory)


def viewed(device: Device, array: Any) -> DeviceArray:
    """Return ``array``, anything with ``__cuda_array_interface__``, without a copy, behind the stream that made it.

    Raises `ShapeError` where it is no array of a GPU, or its numbers do not lie one after another.
    """
    if isinstance(array, DeviceArray):
        return array
    facts = getattr(array, "__cuda_array_interface__", None)
    if facts is None:
        raise ShapeError(
            "ARRAY_DEVICE", f"wanted an array of the GPU, got {type(array).__name__}: upload it with the backend first"
        )
    dtype, shape = np.dtype(facts["typestr"]), tuple(facts["shape"])
    dense, stride = list[int](), dtype.itemsize
    for size in reversed(shape):
        dense.insert(0, stride)
        stride *= size
    strides = facts.get("strides")
    if strides is not None and any(
        size > 1 and have != want for size, have, want in zip(shape, strides, dense, strict=True)
    ):
        raise ShapeError(
            "ARRAY_STRIDES", f"wanted a contiguous array {list(shape)}, got strides {list(strides)}: copy it"
        )
    if (stream := facts.get("stream")) not in (None, device.stream):
        device.follow(stream)
    return DeviceArray(shape, dtype, int(facts["data"][0]), device.stream, array)


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
        made = empty(self.device, dense.shape, dense.dtype)
        self.device.write(made.address, dense)
        return made

    def download(self, tensor: Tensor) -> NDArray[np.generic]:
        seen = viewed(self.device, tensor)
        array: NDArray[np.generic] = np.empty(seen.shape, seen.dtype)
        self.device.read(array, seen.address)
        return array

    def concatenate(self, tensors: Sequence[Tensor]) -> DeviceArray:
        parts = [viewed(self.device, tensor) for tensor in tensors]
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:]) if parts[0].shape else ()
        made, at = empty(self.device, shape, parts[0].dtype), 0
        for part in parts:
            self.device.copy(made.address + at, part.address, part.nbytes)
            at += part.nbytes
        return made

    def affine_step(
        self, step: Step, state: Tensor, velocity: Tensor, history: Tensor | None, noise: Tensor | None
    ) -> None:
        x, v = viewed(self.device, state), viewed(self.device, velocity)
        h, xi = (None if tensor is None else viewed(self.device, tensor) for tensor in (history, noise))
        branches = v.shape[0] // x.shape[0]
        self.device.affine_step(step, x, v, h, xi, prod(x.shape), branches, (kind(x), kind(v)))

    def bridge(
        self, latents: Tensor, scale: FloatArray, shift: FloatArray, noise: Tensor, signal: float, strength: float
    ) -> DeviceArray:
        source, xi = viewed(self.device, latents), viewed(self.device, noise)
        channels = source.shape[2]
        numbers = [self.upload(np.broadcast_to(values, (channels,)).astype(np.float32)) for values in (scale, shift)]
        output = empty(self.device, xi.shape, xi.dtype)
        sizes = (source.shape[1], channels, *source.shape[3:], xi.shape[1], *xi.shape[3:])
        self.device.bridge(output, source, *numbers, xi, signal, strength, sizes, kind(source))
        return output

    def finite(self, tensor: Tensor) -> bool:
        return finite(tensor if isinstance(tensor, np.ndarray) else self.download(tensor))

    def mark(self) -> Any:
        return self.device.mark()

    def elapsed(self, start: Any, end: Any) -> float:
        return self.device.elapsed(start, end)

    def synchronize(self) -> None:
        self.device.synchronize()


def kind(array: DeviceArray) -> str:
    """Return the dtype's name in kernels; raises `ShapeError` for one that they do not know."""
    known = {"float32": "fp32", "float16": "fp16"}
    if str(array.dtype) not in known:
        raise ShapeError("ARRAY_DTYPE", f"wanted {' or '.join(known)} in a kernel, got {array.dtype}")
    return known[str(array.dtype)]
