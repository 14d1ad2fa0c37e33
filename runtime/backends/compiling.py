"""The seam to a library that compiles a bundle's graphs: source, build options, compiler."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..cache import Cache
from .backend import Backend, EngineSpec

Report = Callable[[str, int, int], None]
"""Called with the name of a phase, the steps done and the steps in all."""
RUNS_ON = ("here", "capability", "ampere")
"""GPUs that an engine runs on: such as this one, all of its compute capability, all from Ampere on (at some speed)."""


@dataclass(frozen=True, slots=True)
class GraphSource:
    """A graph to compile, its inputs' ``shapes`` in this run, and the sha256 of the graph and of its weights."""

    path: Path
    spec: EngineSpec
    shapes: Mapping[str, tuple[int, ...]]
    graph: str
    weights: str


@dataclass(frozen=True, slots=True)
class Building:
    """Build options of engines: at most ``workspace_gb`` of scratch memory (None: as much as there is), and the GPUs.

    ``refit`` lets an engine take other weights later, without being compiled again; ``streamed`` lets weights stay in the
    host's memory; ``level``, 0 to 5, is the library's effort to find fast kernels. ``capabilities`` are the compute
    capabilities of an engine made ahead, such as 8.9; empty for an engine of this machine's GPU.
    """

    workspace_gb: float | None = None
    runs_on: str = "here"
    refit: bool = True
    streamed: bool = False
    level: int = 3
    capabilities: tuple[str, ...] = ()


class Compiler(Protocol):
    """Compiles graphs into engines of one library."""

    @property
    def name(self) -> str:
        """The library's name."""

    @property
    def facts(self) -> Mapping[str, str]:
        """The facts of an engine: the library's version and, if it is of one GPU, gpu, capability and driver."""

    def usual(self, precision: str) -> Building:
        """Return how engines of graphs in ``precision`` are compiled if nothing else is asked for."""

    def lacks(self, facts: Mapping[str, str], building: Building) -> tuple[str, ...]:
        """Return the mismatches of an engine with these ``facts`` here, in words; nothing if it runs."""

    def check(self, sources: Sequence[GraphSource], building: Building, precision: str) -> str:
        """Return the size and memory of compiling ``sources``, in words; empty if they are not known before.

        Raises `ConfigError` if the library has no such ``building`` or no such ``precision`` for it, or the machine has too
        little memory.
        """

    def compile(self, source: GraphSource, building: Building, timings: Path, report: Report) -> bytes | memoryview:
        """Return the engine of ``source``; ``timings`` keeps the measurements on the way, for the next engine.

        Raises `BundleIncompatibleError` with the library's own words if it cannot read the graph or build it.
        """

    def refit(self, engine: Path, source: GraphSource) -> bytes | memoryview | None:
        """Return the engine of the same graph with the weights of ``source``; None if the library refuses."""


@runtime_checkable
class CompilingBackend(Backend, Protocol):
    """A backend whose engines are compiled from a bundle's graphs, here or when the bundle was built."""

    @property
    def compiler(self) -> Compiler:
        """Its compiler."""


@runtime_checkable
class CachingBackend(Backend, Protocol):
    """A backend whose engines make code at their first run."""

    def keep_in(self, cache: Cache) -> None:
        """Keep their code in ``cache``, for later processes."""
