"""Engines compiled by TensorRT for RTX: ahead of time and without a GPU, for several generations of GPUs at once."""

from ..backend import Backend
from ..compiling import Compiler
from ..facts import GPU_MEMORY, BackendFacts


def open_backend(threads: int | None = None) -> Backend:
    """Return TensorRT for RTX on the first GPU; the host's ``threads`` do not matter to it."""
    import tensorrt_rtx_bindings

    from ..cuda_device import CudaDevice
    from .engine import RtxBackend

    return RtxBackend(tensorrt_rtx_bindings, CudaDevice())


def open_compiler() -> Compiler:
    """Return the compiler alone: it needs neither a GPU nor a driver."""
    import tensorrt_rtx_bindings

    from .build import RtxCompiler

    return RtxCompiler(tensorrt_rtx_bindings)


FACTS = BackendFacts(
    "tensorrt_rtx",
    open_backend,
    runs="onnx",
    extra="tensorrt-rtx",
    library="tensorrt_rtx_bindings",
    purpose="engines of a bundle for RTX cards, built without one",
    memory=GPU_MEMORY,
    precision="float16",
    sizes_are_fixed=True,
    ahead=open_compiler,
)
