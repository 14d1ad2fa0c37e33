"""The seam to a library that compiles a bundle's graphs on the machine that runs them: what is compiled, how, by what."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from .backend import Backend, EngineSpec

Report = Callable[[str, int, int], None]
"""Called with what the library does, the steps done and the steps in all."""
RUNS_ON = ("here", "capability", "ampere")
"""GPUs that an engine runs on: such as this one, all of its compute capability, all from Ampere on (at some speed)."""


@dataclass(frozen=True, slots=True)
class Source:
    """A graph to compile, its inputs' ``shapes`` in this run, and the sha256 of the graph and of the weights that it reads."""

    path: Path
    spec: EngineSpec
    shapes: Mapping[str, tuple[int, ...]]
    graph: str
    weights: str


@dataclass(frozen=True, slots=True)
class Building:
    """How engines are compiled: in at most ``workspace_gb`` of scratch memory (None: as much as there is), for which GPUs.

    ``refit`` lets an engine take other weights later, without being compiled again; ``streamed`` lets weights stay in the
    host's memory; ``level`` is how long the library looks for fast kernels, 0 to 5.
    """

    workspace_gb: float | None = None
    runs_on: str = "here"
    refit: bool = True
    streamed: bool = False
    level: int = 3


class Compiler(Protocol):
    """Compiles graphs into engines of one library for one machine."""

    @property
    def name(self) -> str:
        """The library's name."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What engines depend on here: gpu, capability, driver, the library's version."""

    def compile(self, source: Source, building: Building, timings: Path, report: Report) -> bytes | memoryview:
        """Return the engine of ``source``; ``timings`` keeps what was measured on the way, for the next engine.

        Raises `BundleIncompatibleError` with what the library says where it cannot read the graph or build it.
        """

    def refit(self, engine: Path, source: Source) -> bytes | memoryview | None:
        """Return the engine of the same graph with the weights of ``source``; None where that is refused."""


@runtime_checkable
class CompilingBackend(Backend, Protocol):
    """A backend whose engines are compiled here from a bundle's graphs."""

    @property
    def compiler(self) -> Compiler:
        """What compiles them."""
