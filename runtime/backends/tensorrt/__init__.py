"""Engines compiled by TensorRT on this GPU."""

from dataclasses import replace

from ..backend import Backend
from ..facts import GPU_MEMORY, BackendFacts


def open_backend(threads: int | None = None) -> Backend:
    """Return TensorRT on the first GPU; the host's ``threads`` do not matter to it."""
    import tensorrt

    from ..cuda_device import CudaDevice
    from .engine import TensorrtBackend

    return TensorrtBackend(tensorrt, CudaDevice())


FACTS = BackendFacts(
    "tensorrt",
    open_backend,
    runs="onnx",
    extra="tensorrt",
    library="tensorrt",
    purpose="engines compiled for a GPU",
    memory=replace(GPU_MEMORY, streamed=0.1),  # four layers of forty: an assumption, unproven
    precision="float32",
    sizes_are_fixed=True,
)
