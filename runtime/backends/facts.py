"""The facts of a backend, for all other files. Each backend states its own, as `FACTS`."""

from collections.abc import Callable
from dataclasses import dataclass

from .backend import Backend
from .compiling import Compiler


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory of an engine library: ``base`` of a process without engines, ``session`` of each engine beside its numbers.

    ``copies`` is how often an engine holds its working memory, also while another runs; with none all engines share one.
    ``latents`` is how many copies of the largest latents samplers and bridge hold. ``fused``: attention's scores are never all
    written out. ``casts``: weights as they are stored stay in memory beside those of the compute dtype. ``streamed`` is the
    share of an engine's weights on the device if the others are streamed from the host's memory; 0: none can be.
    """

    base_bytes: float
    session_bytes: float
    copies: int
    latents: int
    fused: bool
    casts: bool
    streamed: float = 0.0


GPU_MEMORY = MemoryUse(1.5e9, 0.0, copies=0, latents=4, fused=True, casts=False)
"""A CUDA context and its libraries, one scratch memory for all engines: assumptions, unproven."""


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """The facts of one backend, found through the entry point ``dvgwm.backends``.

    ``open`` takes a number of CPU threads (None: the library's own choice) and imports the library: an ImportError names the
    missing one, and ``extra`` installs it. ``runs`` is the backend of the bundles that it opens, ``library`` the module in the
    table of `doctor` and ``purpose`` its words. ``precision`` is the default of a build, None if no bundle is built for this
    name; ``suffix`` ends the files of its engines. ``sizes_are_fixed``: an engine is compiled for one size of each input.
    ``ahead`` opens a compiler without a GPU.
    """

    name: str
    open: Callable[[int | None], Backend]
    runs: str
    extra: str
    library: str
    purpose: str
    memory: MemoryUse
    precision: str | None = None
    suffix: str = ""
    sizes_are_fixed: bool = False
    ahead: Callable[[], Compiler] | None = None
