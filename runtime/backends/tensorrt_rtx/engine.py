"""Engines of TensorRT for RTX: as TensorRT's, but their code is compiled at their first run, and kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...cache import Cache
from ..device import DeviceBackend
from ..device_array import Device
from ..tensorrt.engine import TensorrtEngine, TensorrtRuntime
from .build import RtxCompiler, check_gpu
from .code import CodeStore


class RtxRuntime(TensorrtRuntime):
    """`tensorrt.engine.TensorrtRuntime` with the code of first runs in ``store``, if one is set."""

    title = "TensorRT for RTX"

    def __init__(self, trt: Any, device: Device) -> None:
        super().__init__(trt, device)
        self.store: CodeStore | None = None

    def context(self, engine: Any, path: Path) -> tuple[Any, Callable[[], None]]:
        trt, config = self.trt, engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # Else code for these sizes is compiled in the background, and no run can be captured until it is there.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        code = config.create_runtime_cache()
        if self.store is None:
            config.set_runtime_cache(code)
            return engine.create_execution_context(config), lambda: None
        key = self.store.key(path)
        if known := self.store.load(key):
            code.deserialize(known)  # or refused, by the library's own check
        config.set_runtime_cache(code)
        return engine.create_execution_context(config), self.store.saver(key, lambda: bytes(code.serialize()), known)

    def can_capture(self, context: Any) -> bool:
        return bool(context.is_stream_capturable(self.device.stream))


class RtxBackend(DeviceBackend):
    """`compiling.CompilingBackend` on TensorRT for RTX, the module ``trt``."""

    def __init__(self, trt: Any, device: Device) -> None:
        check_gpu(device.facts["capability"])
        self._runtime = RtxRuntime(trt, device)
        super().__init__("tensorrt_rtx", device, lambda path, spec: TensorrtEngine(self._runtime, path, spec))
        self.compiler = RtxCompiler(trt, device.facts["capability"])

    def keep_in(self, cache: Cache) -> None:
        facts = {**self.device.facts, "tensorrt_rtx": str(self._runtime.trt.__version__)}
        self._runtime.store = CodeStore(cache.inside("code").inside("tensorrt_rtx"), facts)
