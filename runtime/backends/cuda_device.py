"""A GPU behind `device_array.Device`: cuda-core's memory, stream, events and graphs, and the kernels compiled ahead of time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from cuda.bindings import driver
from cuda.core import Device, EventOptions, Stream, system
from numpy.typing import NDArray

from ..errors import ConfigError, EngineLostError
from .cuda import CudaKernels


@dataclass(frozen=True, slots=True)
class _Memory:
    """cuda-core's buffer, which frees itself in the order of its stream."""

    buffer: Any

    @property
    def address(self) -> int:
        return int(self.buffer.handle)


class CudaDevice:
    """`device_array.Device` number ``index``; raises `ConfigError` where there is none."""

    def __init__(self, index: int = 0) -> None:
        try:
            self._device = Device(index)
            self._device.set_current()
        except Exception as error:  # the driver's absence and its errors have no common base
            raise ConfigError("CUDA_DEVICE", f"wanted GPU {index}, cannot open it: {error}") from error
        self._index = index
        self._stream = self._device.create_stream()

    @cached_property
    def _kernels(self) -> CudaKernels:
        return CudaKernels(self._index)

    @cached_property
    def facts(self) -> Mapping[str, str]:
        capability = self._device.compute_capability
        return {
            "gpu": self._device.name,
            "capability": f"{capability.major}.{capability.minor}",
            "driver": _driver_version(),
        }

    @property
    def stream(self) -> int:
        return int(self._stream.handle)

    def allocate(self, nbytes: int) -> _Memory:
        return _Memory(self._device.allocate(nbytes, stream=self._stream))

    def write(self, address: int, array: NDArray[np.generic]) -> None:
        _check("copy to the GPU", driver.cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, self.stream))

    def read(self, array: NDArray[np.generic], address: int) -> None:
        _check("copy from the GPU", driver.cuMemcpyDtoHAsync(array.ctypes.data, address, array.nbytes, self.stream))
        self.synchronize()

    def copy(self, target: int, source: int, nbytes: int) -> None:
        _check("copy on the GPU", driver.cuMemcpyDtoDAsync(target, source, nbytes, self.stream))

    def follow(self, stream: int) -> None:
        self._stream.wait(Stream.from_handle(stream))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        builder = self._stream.create_graph_builder()
        builder.begin_building()
        try:
            work()
        finally:
            builder.end_building()
        graph = builder.complete()
        return lambda: graph.launch(self._stream)

    def affine_step(self, *arguments: Any) -> None:
        launch: Any = self._kernels.affine_step
        launch(*arguments, stream=self.stream)

    def bridge(self, *arguments: Any) -> None:
        launch: Any = self._kernels.bridge
        launch(*arguments, stream=self.stream)

    def mark(self) -> Any:
        return self._stream.record(options=EventOptions(timing_enabled=True, blocking_sync=True))

    def wait(self, mark: Any) -> None:
        mark.sync()

    def elapsed(self, start: Any, end: Any) -> float:
        end.sync()
        return float(end - start) / 1e3

    def synchronize(self) -> None:
        self._stream.sync()


def _driver_version() -> str:
    """Return the driver's version, or of a driver without its management library (a Jetson's) the CUDA that it takes."""
    try:
        return ".".join(map(str, system.get_kernel_mode_driver_version()))
    except Exception:  # its own errors, and those of not finding it, have no common base
        number = driver.cuDriverGetVersion()[1]
        return f"CUDA {number // 1000}.{number % 1000 // 10}"


def _check(what: str, returned: tuple[Any, ...]) -> None:
    if returned[0] != driver.CUresult.CUDA_SUCCESS:
        raise EngineLostError("CUDA_CALL", f"cannot {what}: {returned[0].name}; see `dmesg` for what the driver says")
