"""Engines without networks: every output is a fixed function of the inputs. For tests of everything around them."""

import zlib
from collections.abc import Mapping

import numpy as np

from ..errors import InternalError
from ..types import Tensor
from .backend import EngineSpec
from .buffers import Buffers, check_inputs
from .facts import GPU_MEMORY, BackendFacts
from .host import HostBackend


class FakeEngine:
    """Gives a smooth pattern whose phase is set by the mean of the inputs and the file's name."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self._buffers = Buffers(spec)
        self._closed = False

    def warmup(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor]:
        dtypes = {spec.name: spec.dtype for spec in self.spec.inputs}
        return self.run({name: np.zeros(shape, dtypes[name]) for name, shape in shapes.items()})

    def run(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self._closed:
            raise InternalError("ENGINE_CLOSED", f"{self.spec.file} was closed and cannot run")
        check_inputs(self.spec, tensors)
        outputs = self._buffers.next(tensors)
        phase = sum(float(np.mean(tensors[spec.name])) * (i + 1) for i, spec in enumerate(self.spec.inputs))
        for name, array in outputs.items():
            offset = zlib.crc32(f"{self.spec.file}/{name}".encode()) % 628 / 100
            wave = np.sin(np.arange(array.size, dtype=np.float64) * 0.01 + phase + offset)
            scaled = wave * 127 + 128 if array.dtype.kind in "iu" else wave
            array[...] = scaled.reshape(array.shape).astype(array.dtype)
        return outputs

    def close(self) -> None:
        self._closed = True


def open_backend(threads: int | None = None) -> HostBackend:
    """Return a backend of fake engines; no file is opened and ``threads`` changes nothing."""
    return HostBackend("fake", lambda _path, spec: FakeEngine(spec))


FACTS = BackendFacts(
    "fake",
    open_backend,
    runs="fake",
    extra="",
    library="",
    purpose="tests of everything around engines",
    memory=GPU_MEMORY,
)
