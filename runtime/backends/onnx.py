"""Engines in ONNX Runtime on the CPU."""

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..errors import BundleIncompatibleError, InternalError
from ..types import Tensor, TensorSpec
from .backend import EngineSpec
from .buffers import Buffers, check_inputs
from .host import HostBackend

LARGE_BYTES = 1 << 30
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class OnnxEngine:
    """One graph in an ONNX Runtime session, its outputs bound to buffers of ours."""

    def __init__(self, path: Path, spec: EngineSpec, options: ort.SessionOptions) -> None:
        self.spec = spec
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common base
            raise BundleIncompatibleError(
                "ENGINE_LOAD", f"ONNX Runtime {ort.__version__} cannot load {path.name}: {error}"
            ) from error
        self._check_interface(path.name)
        self._binding = self._session.io_binding()
        self._buffers = Buffers(spec)

    def _check_interface(self, file: str) -> None:
        assert self._session is not None
        for side, want, have in (
            ("inputs", self.spec.inputs, self._session.get_inputs()),
            ("outputs", self.spec.outputs, self._session.get_outputs()),
        ):
            nodes, specs = ({part.name: part for part in parts} for parts in (have, want))
            differ = [name for name in (*specs, *nodes) if not (name in specs and _is_as(nodes.get(name), specs[name]))]
            if differ:
                expected = ", ".join(f"{name} {specs[name]}" for name in differ if name in specs) or "none"
                got = ", ".join(f"{name} {_told(nodes[name])}" for name in differ if name in nodes) or "none"
                raise BundleIncompatibleError(
                    "ENGINE_INTERFACE", f"{file}: wanted {side} such as {expected}; the graph has {got}; rebuild it"
                )

    def warmup(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor]:
        dtypes = {spec.name: spec.dtype for spec in self.spec.inputs}
        return self.run({name: np.zeros(shape, dtypes[name]) for name, shape in shapes.items()})

    def run(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self._session is None:
            raise InternalError("ENGINE_CLOSED", f"{self.spec.file} was closed and cannot run")
        check_inputs(self.spec, tensors)
        outputs = self._buffers.next(tensors)
        # ONNX Runtime reads these pointers inside `run_with_iobinding` only, so `inputs` has to live until then.
        inputs = {spec.name: np.ascontiguousarray(tensors[spec.name]) for spec in self.spec.inputs}
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(self._binding)
        return outputs

    def close(self) -> None:
        self._session = None


def _is_as(node: ort.NodeArg | None, spec: TensorSpec) -> bool:
    """Return whether a graph's input or output is what the manifest states: a fixed size the same, an open one open."""
    return (
        node is not None
        and _DTYPES.get(node.type) == spec.dtype
        and len(node.shape) == len(spec.shape)
        and all(
            size == stated if isinstance(size, int) else isinstance(stated, str) or not size
            for size, stated in zip(node.shape, spec.shape, strict=True)
        )
    )


def _told(node: ort.NodeArg) -> str:
    return f"{_DTYPES.get(node.type, node.type)}{node.shape}"


def open_backend(threads: int | None = None) -> HostBackend:
    """Return ONNX Runtime on ``threads`` CPU threads, one per core of this process if None."""
    return HostBackend("onnx", lambda path, spec: OnnxEngine(path, spec, session_options(spec, threads)))


def session_options(spec: EngineSpec, threads: int | None = None) -> ort.SessionOptions:
    """Return how an engine runs: its memory is kept for the next run, but for one whose outputs are gigabytes."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # By default what is computed for later outputs alone comes last, and keeps all that it is cut from until then: a full-size
    # decoder's cache kept every convolution's input, more than 23 GB where 18 are enough.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    # By default a product with 8-bit weights is taken of rounded tokens, which the graph does not say: a1_tiny's latents were
    # off by .019 where they are by .0135, and nothing was faster.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # A stated number leaves threads unpinned: pinned ones waited twice as long beside another busy process.
    options.intra_op_num_threads = threads or _usable_cores()
    if sum(_bytes(output) for output in spec.outputs) > LARGE_BYTES:
        # And a sixth less where no buffer is kept for another tensor.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = options.enable_mem_reuse = False
    return options


def _bytes(spec: TensorSpec) -> int:
    item = 2 if spec.dtype == "bfloat16" else np.dtype(spec.dtype).itemsize  # numpy has none
    return prod(size for size in spec.shape if isinstance(size, int)) * item


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
