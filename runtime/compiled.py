"""A bundle's graphs as compiled engines: made ahead, into the bundle, or on this machine.

A bundle never changes. Engines made here lie in the user's cache: bundles that share a graph share its engine, and one with
other weights takes them into it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from .backends.backend import EngineSpec
from .backends.compiling import Compiler, GraphSource
from .bundle.disk import Bundle
from .bundle.manifest import CompiledEngine, StageSpec
from .cache import Cache
from .engine_store import Rebuild, Record, Store, record_of
from .errors import BundleIncompatibleError
from .stages import batch_sizes

Report = Callable[[str, str, int, int, int, int], None]
"""Called with a graph, the phase, steps done and steps in all, graphs done and graphs in all."""
ShowProgress = Callable[[str], AbstractContextManager[Report]]
"""Opens a display of progress, once there is something to be compiled; takes the room that this needs, in words."""


def sources(bundle: Bundle, stages: Sequence[StageSpec]) -> tuple[GraphSource, ...]:
    """Return every graph of the bundle once, with the sizes of its inputs in these ``stages``."""
    found: dict[str, GraphSource] = {}
    for stage in stages:
        sizes = batch_sizes(stage)
        for engine in stage.engines.values():
            shapes = {
                item.name: tuple(sizes.get(size, 1) if isinstance(size, str) else size for size in item.shape)
                for item in engine.inputs
            }
            found.setdefault(engine.file, _source(bundle, engine, shapes))
    return tuple(found.values())


def _source(bundle: Bundle, engine: EngineSpec, shapes: Mapping[str, tuple[int, ...]]) -> GraphSource:
    read = [f"{name} {bundle.manifest.files[name].sha256}" for name in bundle.weights_of(engine.file)]
    weights = hashlib.sha256("\n".join(read).encode()).hexdigest()
    graph = bundle.manifest.files[engine.file].sha256
    return GraphSource(bundle.file(engine.file), engine, dict(shapes), graph, weights)


def compiled_engines(
    bundle: Bundle,
    stages: Sequence[StageSpec],
    compiler: Compiler,
    folder: Path,
    show: ShowProgress,
    rebuild: Rebuild,
    key: Path | None = None,
) -> dict[str, Path]:
    """Return the compiled engine of every graph, by the graph's name: the bundle's own, else one in ``folder``.

    Lacking ones are made as ``rebuild`` says, each kept as soon as it is done, sealed with ``key`` (None: one beside the
    folder). Raises `BundleIncompatibleError` with the difference and the command if nothing is to be made, and `ConfigError`
    if the library or this machine cannot make them so.
    """
    wanted, precision = sources(bundle, stages), bundle.manifest.precision
    building = rebuild.building or compiler.usual(precision)
    store = Store(Cache.at(folder) if key is None else Cache(folder, key), compiler)
    found = {
        source.spec.file: _in_bundle(bundle, source, compiler, rebuild) or store.find(source, rebuild)
        for source in wanted
    }
    lacking = [source for source in wanted if found[source.spec.file] is None]
    if lacking and not rebuild.asked:
        others = f", and {len(lacking) - 1} more are lacking" if len(lacking) > 1 else ""
        shipped = [(made.facts, made.building) for made in _shipped(bundle, lacking[0], compiler)]
        chosen = "" if compiler.name == "tensorrt" else f" --backend {compiler.name}"
        raise BundleIncompatibleError(
            "ENGINE_UNBUILT",
            f"{bundle.path}: {lacking[0].path.name} {store.told(lacking[0], shipped)}{others}; compile them with "
            f"`dvgwm-runtime compile --bundle {bundle.path}{chosen}`, or add --rebuild to this run",
        )
    if lacking:
        room = compiler.check(lacking, building, precision)
        with show(room) as report:
            for index, source in enumerate(lacking):
                told = partial(_report, report, source.spec.file, index, len(lacking))
                found[source.spec.file] = store.made(source, building, rebuild, told)
    return {name: path for name, path in found.items() if path is not None}


def record_in(bundle: Bundle, path: Path) -> Record | CompiledEngine:
    """Return the record of the engine at ``path``: the bundle's own, or one of the cache; raises as `record_of`."""
    own = (made for made in bundle.manifest.compiled if bundle.path / made.file == path)
    return next(own, None) or record_of(path)


def _in_bundle(bundle: Bundle, source: GraphSource, compiler: Compiler, rebuild: Rebuild) -> Path | None:
    """Return the bundle's own engine of ``source`` if one runs here and is made as ``rebuild`` asks."""
    for made in _shipped(bundle, source, compiler):
        wanted = made.building == rebuild.building or not rebuild.exactly
        if wanted and not compiler.lacks(made.facts, made.building):
            return bundle.file(made.file)
    return None


def _shipped(bundle: Bundle, source: GraphSource, compiler: Compiler) -> list[CompiledEngine]:
    return [
        made
        for made in bundle.manifest.compiled
        if (made.library, made.graph, made.shapes) == (compiler.name, source.spec.file, source.shapes)
    ]


def _report(report: Report, file: str, index: int, total: int, phase: str, done: int, steps: int) -> None:
    report(file, phase, done, steps, index, total)
