"""An engine whose failures are ours: whatever its library raises is told with the engine's name and a stable exit code."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleIncompatibleError, DvgwmError, EngineLostError, EngineMemoryError, ShapeError
from ..types import Tensor
from .backend import Backend, Engine, EngineSpec

_NO_MEMORY = ("out of memory", "out_of_memory", "bad alloc", "bad_alloc", "failed to allocate", "cannot allocate")


@dataclass(frozen=True, slots=True)
class WatchedEngine:
    """`backend.Engine` around another one.

    Raises `EngineMemoryError` (30), `EngineLostError` (31), or `ShapeError` (32) for outputs that its spec does not state.
    """

    engine: Engine

    @property
    def spec(self) -> EngineSpec:
        return self.engine.spec

    def warmup(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor]:
        with watched(self.spec.file):
            outputs = self.engine.warmup(shapes) or {}  # a backend of before gives nothing
        return self._checked(outputs) if outputs else {}

    def run(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with watched(self.spec.file):
            outputs = self.engine.run(tensors)
        return self._checked(outputs)

    def _checked(self, outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if outputs.keys() != {item.name for item in self.spec.outputs}:
            raise ShapeError("ENGINE_OUTPUTS", f"{self.spec.file}: gave {', '.join(outputs)}, not what its spec states")
        for item in self.spec.outputs:
            item.check(outputs[item.name])
        return outputs

    def close(self) -> None:
        self.engine.close()


def load_engine(backend: Backend, path: Path, spec: EngineSpec) -> WatchedEngine:
    """Return the engine at ``path``; raises `BundleIncompatibleError` where ``backend`` cannot load it, whatever the reason."""
    sys.audit("dvgwm.engine", spec.file)
    try:
        return WatchedEngine(backend.load(path, spec))
    except DvgwmError:
        raise
    except Exception as error:
        if _is_memory(error):
            raise EngineMemoryError("ENGINE_MEMORY", f"no memory to load {spec.file}: {error}") from error
        message = f"{backend.name} cannot load {spec.file}: {error}; rebuild the bundle"
        raise BundleIncompatibleError("ENGINE_LOAD", message) from error


@contextmanager
def watched(name: str) -> Iterator[None]:
    """Name what fails inside as the failure of ``name``; the supervisor is told that it runs."""
    sys.audit("dvgwm.engine", name)
    try:
        yield
    except (DvgwmError, OSError):  # a place on disk is no engine's
        raise
    except Exception as error:
        if _is_memory(error):
            remedy = "close other programs, or use a smaller bundle"
            raise EngineMemoryError(
                "ENGINE_MEMORY", f"{name} wants more memory than there is: {error}; {remedy}"
            ) from error
        remedy = "check the bundle with `dvgwm-runtime inspect --deep`, or run again with --debug for the library's log"
        raise EngineLostError("ENGINE_FAILED", f"{name} failed: {error}; {remedy}") from error


def _is_memory(error: Exception) -> bool:
    # torch's error is no MemoryError and ONNX Runtime has none of its own.
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or "outofmemory" in text or any(sign in text for sign in _NO_MEMORY)
