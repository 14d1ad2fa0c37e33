"""ONNX Runtime on a GPU."""

from ..backend import Backend
from ..facts import GPU_MEMORY, BackendFacts


def open_backend(threads: int | None = None) -> Backend:
    """Return ONNX Runtime on the first GPU; the host's ``threads`` do not matter to it.

    Raises `ConfigError` if this ONNX Runtime knows no GPU, or there is none.
    """
    from . import engine

    return engine.open_backend(threads)


FACTS = BackendFacts(
    "onnx_cuda", open_backend, "onnx", "onnx-gpu", library="onnxruntime", purpose="on a GPU", memory=GPU_MEMORY
)
