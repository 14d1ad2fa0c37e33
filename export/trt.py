"""TensorRT's engines of a bundle that is being built: compiled before the gate, which they have to pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dvgwm.runtime import compiled
from dvgwm.runtime.backends.compiling import CompilingBackend
from dvgwm.runtime.bundle.disk import Bundle
from dvgwm.runtime.cache import Cache
from dvgwm.runtime.compiled import compiled_engines
from dvgwm.runtime.engine_store import Rebuild

from .order import Order
from .products import Report


def compiled_here(bundle: Bundle, backend: CompilingBackend, order: Order, report: Report) -> Mapping[str, Path]:
    """Return the engine of every graph of ``bundle``, from the order's cache or compiled into it.

    Raises `BundleIncompatibleError` where the library cannot read a graph, or build it.
    """

    @contextmanager
    def watch() -> Iterator[compiled.Report]:
        def told(file: str, phase: str, done: int, steps: int, index: int, total: int) -> None:
            if done == 0:
                report("build", f"{file}: {phase}", index, total)

        yield told
        report("build", "", 1, 1)

    cache = order.cache or order.out.with_name(f".{order.out.name}.cache")
    stages, key = bundle.manifest.pipeline, Cache.at(cache).key
    return compiled_engines(bundle, stages, backend.compiler, cache / "engines", watch, Rebuild(asked=True), key)
