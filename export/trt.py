"""Compiled engines of an unfinished bundle: on this GPU for the gate, or ahead of time into the bundle."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dvgwm.runtime import compiled
from dvgwm.runtime.backends.compiling import Building, Compiler, CompilingBackend, GraphSource
from dvgwm.runtime.bundle.checks import COMPILED_SUFFIX
from dvgwm.runtime.bundle.disk import Bundle
from dvgwm.runtime.bundle.manifest import CompiledEngine
from dvgwm.runtime.cache import Cache
from dvgwm.runtime.compiled import compiled_engines, sources
from dvgwm.runtime.engine_store import Rebuild

from .order import Order
from .products import Products, Report
from .workshop import Workshop


def compiled_here(bundle: Bundle, backend: CompilingBackend, order: Order, report: Report) -> Mapping[str, Path]:
    """Return the engine of every graph of ``bundle``, from the order's cache or compiled into it.

    Raises `BundleIncompatibleError` if the library cannot read a graph, or build it.
    """

    @contextmanager
    def show(room: str) -> Iterator[compiled.Report]:
        def told(file: str, phase: str, done: int, steps: int, index: int, total: int) -> None:
            if done == 0:
                report("build", f"{file}: {phase}", index, total)

        yield told
        report("build", "", 1, 1)

    cache = order.cache or order.out.with_name(f".{order.out.name}.cache")
    stages, key = bundle.manifest.pipeline, Cache.at(cache).key
    return compiled_engines(bundle, stages, backend.compiler, cache / "engines", show, Rebuild(asked=True), key)


def compiled_ahead(
    bundle: Bundle,
    compiler: Compiler,
    building: Building,
    workshop: Workshop,
    report: Report,
    tell: Callable[[str], None],
) -> tuple[tuple[CompiledEngine, ...], Products]:
    """Return an engine of every graph of ``bundle`` as ``building`` says, and their files.

    ``tell`` hears the room for it beforehand. Raises `ConfigError` if the machine has too little, and
    `BundleIncompatibleError` if the library cannot read a graph, or build it.
    """
    engines, files, new = list[CompiledEngine](), dict[str, Path](), list[str]()
    wanted = sources(bundle, bundle.manifest.pipeline)
    tell(compiler.check(wanted, building, bundle.manifest.precision))
    for index, source in enumerate(wanted):
        file = f"{Path(source.spec.file).stem}{COMPILED_SUFFIX}"
        report("build", f"{source.spec.file}: {compiler.name}", index, len(wanted))
        files[file], is_new = workshop.product(file, partial(_compile, compiler, source, building))
        new += [file] * is_new
        engines.append(CompiledEngine(compiler.name, source.spec.file, file, source.shapes, compiler.facts, building))
    report("build", "", len(wanted), len(wanted))
    return tuple(engines), Products(files, {}, tuple(new))


def _compile(compiler: Compiler, source: GraphSource, building: Building, target: Path) -> None:
    target.write_bytes(compiler.compile(source, building, target.with_name("timings"), lambda *_: None))
