"""Packages that torch compiled ahead of time, on a GPU or the CPU."""

from ..backend import Backend
from ..facts import GPU_MEMORY, BackendFacts


def open_backend(threads: int | None = None) -> Backend:
    """Return torch on the first GPU, or without one on ``threads`` CPU threads; torch chooses their number if None."""
    from . import engine

    return engine.open_backend(threads)


FACTS = BackendFacts(
    "torch",
    open_backend,
    runs="torch",
    extra="torch",
    library="torch",
    purpose="building bundles; never needed to run one of graphs",
    memory=GPU_MEMORY,
    precision="float32",
    suffix=".pt2",
)
