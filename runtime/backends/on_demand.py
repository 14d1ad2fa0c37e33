"""An engine that is in memory only while its stage runs."""

import ctypes
from collections.abc import Callable, Mapping
from contextlib import suppress

from ..types import Tensor
from .backend import Engine, EngineSpec


def _give_back() -> None:
    """Have glibc give what is free back to the system: on its own it keeps it, and evicting an engine would change nothing."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


class OnDemandEngine:
    """`backend.Engine` that ``load`` opens when it is first run, until it is closed; after that it can be run again."""

    def __init__(self, spec: EngineSpec, load: Callable[[], Engine]) -> None:
        self.spec, self._load = spec, load
        self._engine: Engine | None = None

    def warmup(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor]:
        return self._opened().warmup(shapes)

    def run(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return self._opened().run(tensors)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
            _give_back()

    def _opened(self) -> Engine:
        if self._engine is None:
            self._engine = self._load()
        return self._engine
