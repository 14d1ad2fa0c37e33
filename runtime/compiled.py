"""A bundle's graphs as engines that a library compiles on this machine.

A bundle never changes; what is compiled of it lies in the user's cache, so that bundles that share a graph share its engine,
and one with other weights takes them into it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from .backends.backend import EngineSpec
from .backends.compiling import Compiler, Source
from .bundle.disk import Bundle
from .bundle.manifest import StageSpec
from .cache import Cache
from .engine_store import Rebuild, Store
from .errors import BundleIncompatibleError
from .stages import batch_sizes

Report = Callable[[str, str, int, int, int, int], None]
"""Called with a graph, what is done with it, steps done and steps in all, graphs done and graphs in all."""
Watch = Callable[[], AbstractContextManager[Report]]
"""Opens what is told of progress, once there is something to be compiled."""


def sources(bundle: Bundle, stages: Sequence[StageSpec]) -> tuple[Source, ...]:
    """Return every graph of the bundle once, with the sizes that its inputs have in these ``stages``."""
    found: dict[str, Source] = {}
    for stage in stages:
        sizes = batch_sizes(stage)
        for engine in stage.engines.values():
            shapes = {
                item.name: tuple(sizes.get(size, 1) if isinstance(size, str) else size for size in item.shape)
                for item in engine.inputs
            }
            found.setdefault(engine.file, _source(bundle, engine, shapes))
    return tuple(found.values())


def _source(bundle: Bundle, engine: EngineSpec, shapes: Mapping[str, tuple[int, ...]]) -> Source:
    read = [f"{name} {bundle.manifest.files[name].sha256}" for name in bundle.weights_of(engine.file)]
    weights = hashlib.sha256("\n".join(read).encode()).hexdigest()
    graph = bundle.manifest.files[engine.file].sha256
    return Source(bundle.file(engine.file), engine, dict(shapes), graph, weights)


def compiled_engines(
    bundle: Bundle,
    stages: Sequence[StageSpec],
    compiler: Compiler,
    folder: Path,
    watch: Watch,
    rebuild: Rebuild,
    key: Path | None = None,
) -> dict[str, Path]:
    """Return the compiled engine of every graph, by the graph's name.

    Those that are not in ``folder`` are made as ``rebuild`` says, each kept as soon as it is done, sealed with ``key`` (one
    beside the folder where none is named). Where nothing is to be made, raises `BundleIncompatibleError` with what differs and
    the command.
    """
    wanted = sources(bundle, stages)
    store = Store(Cache.at(folder) if key is None else Cache(folder, key), compiler)
    found = {source.spec.file: store.find(source, rebuild) for source in wanted}
    lacking = [source for source in wanted if found[source.spec.file] is None]
    if lacking and not rebuild.asked:
        others = f", and {len(lacking) - 1} more are lacking" if len(lacking) > 1 else ""
        raise BundleIncompatibleError(
            "ENGINE_UNBUILT",
            f"{bundle.path}: {lacking[0].path.name} {store.told(lacking[0])}{others}; compile them with "
            f"`dvgwm-runtime compile --bundle {bundle.path}`, or add --rebuild to this run",
        )
    if lacking:
        with watch() as report:
            for index, source in enumerate(lacking):
                told = partial(_report, report, source.spec.file, index, len(lacking))
                found[source.spec.file] = store.made(source, rebuild, told)
    return {name: path for name, path in found.items() if path is not None}


def _report(report: Report, file: str, index: int, total: int, phase: str, done: int, steps: int) -> None:
    report(file, phase, done, steps, index, total)
