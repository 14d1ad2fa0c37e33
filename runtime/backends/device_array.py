"""Arrays in a GPU's memory, which other libraries take and whose arrays are taken, and what a GPU does with them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InternalError, ShapeError


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

    def wait(self, mark: Any) -> None:
        """Wait until the stream has come to ``mark``."""

    def elapsed(self, start: Any, end: Any) -> float:
        """Return the seconds between two marks, after waiting for the second."""

    def synchronize(self) -> None:
        """Wait until the stream is idle."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceArray:
    """A contiguous array in the memory of ``device``, which ``owner`` keeps; ``dtype`` is its name, also bfloat16."""

    shape: tuple[int, ...]
    dtype: str
    address: int
    device: Device
    owner: Any = None

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return storage(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return prod(self.shape) * self.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What pycuda, CuPy and torch take an array by: version 3. bfloat16 is shown as whole numbers of its bits."""
        facts = {"shape": self.shape, "typestr": storage(self.dtype).str, "data": (self.address, False)}
        return facts | {"strides": None, "stream": self.device.stream, "version": 3}

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
        return DeviceArray(shape, self.dtype, self.address + offset * self.itemsize, self.device, self)

    def reshape(self, *shape: int) -> "DeviceArray":
        """Return the same memory in another shape, of which one size may be -1."""
        known = prod(size for size in shape if size != -1)
        sizes = tuple(prod(self.shape) // known if size == -1 else size for size in shape)
        if prod(sizes) != prod(self.shape):
            raise InternalError("ARRAY_RESHAPE", f"wanted {list(shape)}, got an array of {list(self.shape)}")
        return DeviceArray(sizes, self.dtype, self.address, self.device, self)

    def bfloat16(self) -> "DeviceArray":
        """Return a float32 array's copy in bfloat16, rounded to nearest, ties to even; by way of the host."""
        bits = np.empty(self.shape, np.uint32)
        self.device.read(bits, self.address)
        made = empty(self.device, self.shape, "bfloat16")
        self.device.write(made.address, ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16))
        return made


def storage(dtype: str) -> np.dtype[Any]:
    """Return the numpy dtype whose bytes hold a number of ``dtype``: numpy has no bfloat16."""
    return np.dtype(np.uint16 if dtype == "bfloat16" else dtype)


def empty(device: Device, shape: Sequence[int], dtype: str) -> DeviceArray:
    """Return a new array on ``device``, its numbers whatever they are."""
    memory = device.allocate(max(prod(shape) * storage(dtype).itemsize, 1))
    return DeviceArray(tuple(shape), dtype, memory.address, device, memory)


def zeros(device: Device, shape: Sequence[int], dtype: str) -> DeviceArray:
    """Return a new array of zeros on ``device``."""
    made = empty(device, shape, dtype)
    device.write(made.address, np.zeros(shape, storage(dtype)))
    return made


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
    return DeviceArray(shape, dtype.name, int(facts["data"][0]), device, array)
