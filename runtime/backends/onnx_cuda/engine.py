"""Engines in ONNX Runtime on a GPU: the graphs of a bundle as they are, every array in the GPU's memory."""

from functools import partial
from pathlib import Path

import onnxruntime as ort

from ...errors import ConfigError
from ..backend import EngineSpec
from ..device import DeviceBackend
from ..device_array import Device, empty, viewed
from ..onnx.engine import OnnxEngine, SessionPlace, session_options
from ..onnx.packages import REMEDY, check_packages

PROVIDER = "CUDAExecutionProvider"


def backend_of(device: Device, memory: str = "cuda", provider: str = PROVIDER) -> DeviceBackend:
    """Return ONNX Runtime on ``device``, on its own stream, in float32 that is no TF32."""
    options = {"device_id": "0", "user_compute_stream": str(device.stream), "use_tf32": "0"}

    def load(path: Path, spec: EngineSpec) -> OnnxEngine:
        return OnnxEngine(path, spec, session_options(spec), place)

    backend = DeviceBackend("onnx_cuda", device, load)
    place = SessionPlace(
        provider,
        memory,
        partial(viewed, device),
        lambda array: int(array.address),
        partial(empty, device),
        backend.upload,
        options if provider == PROVIDER else {},
        f"it wants CUDA 13 and cuDNN 9; {REMEDY}",
    )
    return backend


def open_backend(threads: int | None = None) -> DeviceBackend:
    """Return ONNX Runtime on the first GPU; the host's ``threads`` do not matter to it.

    Raises `ConfigError` where this ONNX Runtime knows no GPU, or there is none.
    """
    check_packages()
    if PROVIDER not in (known := ort.get_available_providers()):
        raise ConfigError(
            "ONNX_GPU", f"wanted an ONNX Runtime with {PROVIDER}, {ort.__version__} has {', '.join(known)}; {REMEDY}"
        )
    try:
        from ..cuda_device import CudaDevice
    except ImportError as error:
        raise ConfigError("CUDA_CORE", f"wanted cuda-core ({error}); pip install 'dvgwm[onnx-gpu]'") from error
    return backend_of(CudaDevice())
