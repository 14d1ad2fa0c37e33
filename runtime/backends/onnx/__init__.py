"""ONNX Runtime on the CPU."""

from ..backend import Backend
from ..facts import BackendFacts, MemoryUse


def open_backend(threads: int | None = None) -> Backend:
    """Return ONNX Runtime on ``threads`` CPU threads, one per core of this process if None."""
    from . import engine

    return engine.open_backend(threads)


FACTS = BackendFacts(
    "onnx",
    open_backend,
    runs="onnx",
    extra="onnx",
    library="onnxruntime",
    purpose="engines on the CPU",
    # As measured: the process, a session's tables, numpy's own work. ONNX Runtime lays tensors out anew when it knows their
    # sizes, from the second run on, and keeps what it had before.
    memory=MemoryUse(88e6, 2e6, copies=2, latents=4, fused=False, casts=True),
    precision="float32",
    suffix=".onnx",
)
