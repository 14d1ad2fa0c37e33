"""Engines in ONNX Runtime: on the CPU, or wherever a `SessionPlace` says."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ...errors import BundleIncompatibleError, ConfigError, InternalError
from ...types import Tensor, TensorSpec
from ..backend import EngineSpec
from ..buffers import Buffers, check_inputs
from ..host import HostBackend

LARGE_BYTES = 1 << 30
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


@dataclass(frozen=True, slots=True)
class SessionPlace:
    """The place of sessions and arrays: ``dense`` gives a contiguous array, ``address`` its address in ``memory``.

    If ``memory`` is not the host's, a run is begun and not waited for. ``remedy`` is told if there is no ``provider``.
    """

    provider: str
    memory: str
    dense: Callable[[Tensor], Tensor]
    address: Callable[[Tensor], int]
    empty: Callable[[Any, Any], Tensor]
    upload: Callable[[NDArray[np.generic]], Tensor]
    options: Mapping[str, str] = field(default_factory=dict)
    remedy: str = "install ONNX Runtime anew"


HOST = SessionPlace(
    "CPUExecutionProvider", "cpu", np.ascontiguousarray, lambda array: int(array.ctypes.data), np.empty, np.asarray
)


class OnnxEngine:
    """One graph in an ONNX Runtime session, its inputs and outputs bound to arrays of ours at a ``place``."""

    def __init__(self, path: Path, spec: EngineSpec, options: ort.SessionOptions, place: SessionPlace = HOST) -> None:
        self.spec, self._place = spec, place
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                str(path), options, providers=[(place.provider, dict(place.options))]
            )
        except Exception as error:  # onnxruntime's errors have no common base
            raise BundleIncompatibleError(
                "ENGINE_LOAD", f"ONNX Runtime {ort.__version__} cannot load {path.name}: {error}"
            ) from error
        if (got := self._session.get_providers())[0] != place.provider:
            raise ConfigError("ONNX_PROVIDER", f"wanted {place.provider} for {path.name}, got {got[0]}; {place.remedy}")
        self._check_interface(path.name)
        self._binding = self._session.io_binding()
        self._buffers = Buffers(spec, place.empty)
        self._run_options = ort.RunOptions()
        if place is not HOST:
            self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

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
        return self.run({name: self._place.upload(np.zeros(shape, dtypes[name])) for name, shape in shapes.items()})

    def run(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self._session is None:
            raise InternalError("ENGINE_CLOSED", f"{self.spec.file} was closed and cannot run")
        # ONNX Runtime reads these addresses inside `run_with_iobinding` only, so `inputs` has to live until then.
        inputs = {name: self._place.dense(tensor) for name, tensor in tensors.items()}
        check_inputs(self.spec, inputs)
        outputs = self._buffers.next(inputs)
        memory, address = self._place.memory, self._place.address
        for name, array in inputs.items():
            self._binding.bind_input(name, memory, 0, array.dtype, array.shape, address(array))
        for name, array in outputs.items():
            self._binding.bind_output(name, memory, 0, array.dtype, array.shape, address(array))
        self._session.run_with_iobinding(self._binding, self._run_options)
        return outputs

    def close(self) -> None:
        self._session = None


def _is_as(node: ort.NodeArg | None, spec: TensorSpec) -> bool:
    """Return whether a graph's input or output is as in the manifest: a fixed size the same, an open one open."""
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
    """Return the session's options: memory is kept for the next run, unless the outputs are gigabytes."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # By default what is computed for later outputs alone comes last, and keeps all that it is cut from until then: a full-size
    # decoder's cache kept every convolution's input, more than 23 GB where 18 are enough.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    # By default a product with 8-bit weights is taken of rounded tokens, which the graph does not say: a1_tiny's latents were
    # off by .019 where they are by .0135, and nothing was faster.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # By default a session's threads look for work for a while after a run. Those of nine sessions took the cores from the
    # engine that ran next: a plan of a1_tiny took 1.5 times as long.
    options.add_session_config_entry("session.force_spinning_stop", "1")
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
