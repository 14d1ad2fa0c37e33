"""Compiled engines in a folder, each with a record of its source: found by it, made if they are lacking."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .backends.compiling import Building, Compiler, GraphSource
from .cache import Cache
from .files import write_atomic
from .strict import strict


@dataclass(frozen=True, slots=True)
class Rebuild:
    """The order to compile lacking engines if ``asked``, as ``building`` says; None: as the compiler does by default.

    With ``exactly`` an engine made in another way is lacking too.
    """

    asked: bool = False
    building: Building | None = None
    exactly: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """The source of one compiled engine, its GPU and its making; ``refitted`` if it took over its weights."""

    library: str
    name: str
    graph: str
    weights: str
    shapes: Mapping[str, tuple[int, ...]]
    facts: Mapping[str, str]
    building: Building
    refitted: bool
    seconds: float
    sha256: str
    seal: str = ""

    def sealed_by(self) -> bytes:
        """Return the bytes under its seal: everything else."""
        return json.dumps(asdict(replace(self, seal="")), sort_keys=True).encode()

    def is_of(self, source: GraphSource) -> bool:
        """Return whether it was compiled from this graph for these sizes, whatever its weights."""
        return self.graph == source.graph and self.shapes == source.shapes

    def is_replaced_by(self, source: GraphSource, facts: Mapping[str, str], building: Building) -> bool:
        """Return whether a new engine of ``source`` with these ``facts``, for the same GPUs or more, takes its place."""
        same_gpus = self.facts.get("gpu") == facts.get("gpu")
        covered = set(self.building.capabilities) <= set(building.capabilities)
        return self.is_of(source) and self.weights == source.weights and same_gpus and covered


class Store:
    """Compiled engines in this user's cache, as ``compiler`` makes them on this machine: code, run as it lies there."""

    def __init__(self, cache: Cache, compiler: Compiler) -> None:
        self._cache, self._compiler = cache.inside(compiler.name), compiler
        self._folder = self._cache.folder

    def find(self, source: GraphSource, rebuild: Rebuild) -> Path | None:
        """Return an engine of ``source`` for this machine, None if there is none."""
        own = (path for path, record in self._running(source, rebuild) if record.weights == source.weights)
        return next(own, None)

    def made(
        self, source: GraphSource, asked: Building, rebuild: Rebuild, report: Callable[[str, int, int], None]
    ) -> Path:
        """Return a new engine of ``source``: one of other weights takes these, or else it is compiled as ``asked``.

        Older ones of the same for this GPU are removed: of another driver, of another version, made in another way.
        """
        began = time.perf_counter()
        self._cache.open()
        engine, building = None, asked
        for path, record in self._running(source, rebuild):
            if record.building.refit:
                report("takes other weights", 0, 1)
                engine, building = self._compiler.refit(path, source), record.building
                report("takes other weights", 1, 1)
                break
        refitted = engine is not None
        if engine is None:
            building = asked
            engine = self._compiler.compile(source, building, self._folder / f"timings-{self._key()}", report)
        facts = self._compiler.facts
        old = [path for path, record in self._records() if record.is_replaced_by(source, facts, building)]
        record = Record(
            self._compiler.name,
            source.spec.file,
            source.graph,
            source.weights,
            source.shapes,
            self._compiler.facts,
            building,
            refitted,
            round(time.perf_counter() - began, 3),
            hashlib.sha256(engine).hexdigest(),
        )
        path = self._folder / f"{self._key(source.graph, source.weights, source.shapes, asdict(building))}.plan"
        write_atomic(path, engine)
        record = replace(record, seal=self._cache.seal(record.sealed_by()))
        # Last: where there is a record its engine is whole.
        write_atomic(path.with_suffix(".json"), json.dumps(asdict(record), indent=1).encode())
        for each in old:
            if each != path:
                each.with_suffix(".json").unlink(missing_ok=True)
                each.unlink(missing_ok=True)
        return path

    def told(self, source: GraphSource, shipped: Sequence[tuple[Mapping[str, str], Building]] = ()) -> str:
        """Return why no engine of ``source`` runs here, of the cache or ``shipped`` with its bundle."""
        lacks = self._compiler.lacks
        differences = [lacks(facts, building) for facts, building in shipped]
        for _, record in self._records():
            if record.is_of(source):
                others = ("other weights",) * (record.weights != source.weights)
                differences.append((*lacks(record.facts, record.building), *others))
        if not differences:
            return f"was never compiled for {self._compiler.name}"
        differ = min(differences, key=len)
        return (
            f"was compiled for {', '.join(differ)}" if differ else "has an engine that is damaged, or not this user's"
        )

    def _running(self, source: GraphSource, rebuild: Rebuild) -> Iterator[tuple[Path, Record]]:
        """Yield this machine's engines of the source's graph, of any weights, the newest first."""
        for path, record in self._records():
            wanted = record.building == rebuild.building or not rebuild.exactly
            runs = record.is_of(source) and wanted and not self._compiler.lacks(record.facts, record.building)
            if runs and self._is_own(path, record) and _is_whole(path, record):
                yield path, record

    def _is_own(self, path: Path, record: Record) -> bool:
        """Return whether this user made the engine and its record."""
        owned = all(self._cache.owns(each) for each in (path, path.with_suffix(".json")))
        return owned and self._cache.is_sealed(record.seal, record.sealed_by())

    def _records(self) -> list[tuple[Path, Record]]:
        """Return every engine with its record, the newest first; an unreadable record is passed over."""
        found = []
        for path in self._folder.glob("*.plan") if self._cache.exists() else ():
            with suppress(OSError, ValueError, RecursionError):
                found.append((path.stat().st_mtime_ns, path, record_of(path)))
        return [(path, record) for _, path, record in sorted(found, key=lambda each: each[0], reverse=True)]

    def _key(self, *facts: Any) -> str:
        """Return a file's name; it changes with this machine and with each of the ``facts``."""
        return hashlib.sha256(json.dumps([self._compiler.facts, facts], sort_keys=True).encode()).hexdigest()[:24]


def record_of(path: Path) -> Record:
    """Return the record of the engine at ``path``; raises OSError or ValueError if it has none."""
    return strict(json.loads(path.with_suffix(".json").read_bytes()), Record)


def _is_whole(path: Path, record: Record) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
    except OSError:
        return False
