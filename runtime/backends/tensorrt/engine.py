"""Compiled engines: their buffers, scratch memory and captures, through cuda-core."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import BundleIncompatibleError, EngineLostError, InternalError, ShapeError
from ...types import Tensor, TensorSpec
from ..backend import EngineSpec
from ..buffers import check_inputs
from ..device import DeviceBackend
from ..device_array import Device, DeviceArray, Memory, empty, viewed, zeros
from .build import TensorrtCompiler, deserialized, new_logger

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BF16": "bfloat16",
}


class Scratch:
    """The working memory of all engines, one after another: as much as the largest need."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.nbytes = 0
        self.memory: Memory | None = None

    def reserve(self, nbytes: int) -> None:
        """Have at least so much, in another place if there is less by now."""
        if nbytes > self.nbytes:
            self.memory = None  # the old piece is free before the new one is taken
            self.memory, self.nbytes = self._device.allocate(nbytes), nbytes


class TensorrtEngine:
    """One engine. If nothing is carried, its inputs have places of their own, and a run is one launch of a captured graph."""

    def __init__(self, runtime: "TensorrtRuntime", path: Path, spec: EngineSpec) -> None:
        self.spec, self._device, self._scratch = spec, runtime.device, runtime.scratch
        trt = runtime.trt
        self._engine = deserialized(runtime.runtime, path)
        if self._engine is None:
            raise BundleIncompatibleError(
                "ENGINE_LOAD",
                f"{runtime.title} {trt.__version__} cannot load {path.name}: {runtime.logger.told()}; --rebuild it",
            )
        _check_interface(self._engine, spec)
        self._streamed = self._engine.streamable_weights_size > 0
        if self._streamed:
            self._engine.weight_streaming_budget_v2 = self._engine.get_weight_streaming_automatic_budget()
        self._scratch.reserve(int(self._engine.device_memory_size_v2))
        self._context, self._keep_code = runtime.context(self._engine, path)
        self._can_capture = runtime.can_capture
        if self._context is None:
            raise EngineLostError("ENGINE_CONTEXT", f"{spec.file} has no room to run: {runtime.logger.told()}")
        self._shapes = self._fixed_shapes()
        self._inputs = {} if spec.carry else {item.name: self._empty(item) for item in spec.inputs}
        plain = {item.name: self._empty(item) for item in spec.outputs}
        carried = {item.name: self._empty(item) for item in spec.outputs if item.name in spec.carry}
        self._outputs = (plain, plain | carried)
        self._turn = 0
        self._held: Mapping[str, DeviceArray] = {}
        self._settled = False
        self._works_in: Memory | None = None
        self._replay: Callable[[], None] | None = None

    def _fixed_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return all sizes; an open size of the graph is the one of the engine's profile."""
        shapes = {}
        for item in self.spec.inputs:
            shape = tuple(self._engine.get_tensor_shape(item.name))
            if -1 in shape:
                shape = tuple(self._engine.get_tensor_profile_shape(item.name, 0)[1])
                self._accept(self._context.set_input_shape(item.name, shape), item.name)
            shapes[item.name] = shape
        return shapes | {item.name: tuple(self._context.get_tensor_shape(item.name)) for item in self.spec.outputs}

    def warmup(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor]:
        nothing = {item.name: zeros(self._device, shapes[item.name], item.dtype) for item in self.spec.inputs}
        self.run(nothing)
        return self.run(nothing)  # as it will be from now on, from the capture that the first one made

    def run(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self._context is None:
            raise InternalError("ENGINE_CLOSED", f"{self.spec.file} was closed and cannot run")
        seen = {name: viewed(self._device, tensor) for name, tensor in tensors.items()}
        self._check(seen)
        self._settle()
        self._turn ^= 1
        outputs = self._outputs[self._turn]
        if self.spec.carry:
            self._held = seen  # what is read must not be freed before it is
            self._bind(seen | outputs)
            self._execute()
            self._keep_code()
            return outputs
        for name, place in self._inputs.items():
            self._device.copy(place.address, seen[name].address, place.nbytes)
        (self._replay or self._execute)()
        if self._replay is None and not self._streamed and self._can_capture(self._context):
            self._replay = self._device.capture(self._execute)  # the library's work of a first run is done by now
        self._keep_code()
        return outputs

    def _check(self, tensors: Mapping[str, DeviceArray]) -> None:
        check_inputs(self.spec, tensors)
        for name, tensor in tensors.items():
            if tensor.shape != self._shapes[name]:
                raise ShapeError(
                    "ENGINE_SIZES",
                    f"{self.spec.file}: compiled for {name} {list(self._shapes[name])}, got {list(tensor.shape)}; --rebuild it",
                )

    def _settle(self) -> None:
        """Bind the scratch memory at its present address: another engine may have wanted more since the last run."""
        memory = self._scratch.memory
        if self._settled and memory is self._works_in:
            return
        self._settled, self._works_in, self._replay = True, memory, None
        if memory is not None:
            self._context.set_device_memory(memory.address, self._scratch.nbytes)
        if not self.spec.carry:
            self._bind(self._inputs | self._outputs[0])

    def _bind(self, arrays: Mapping[str, DeviceArray]) -> None:
        for name, array in arrays.items():
            self._accept(self._context.set_tensor_address(name, array.address), name)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            raise EngineLostError(
                "ENGINE_FAILED", f"{self.spec.file} failed; run again with --debug for TensorRT's log"
            )

    def _accept(self, accepted: bool, name: str) -> None:
        if not accepted:
            raise EngineLostError("ENGINE_BINDING", f"{self.spec.file}: TensorRT does not take {name}; --rebuild it")

    def _empty(self, item: TensorSpec) -> DeviceArray:
        return empty(self._device, self._shapes[item.name], item.dtype)

    def close(self) -> None:
        if self._context is not None:
            self._device.synchronize()
        self._context = self._engine = self._replay = self._works_in = None
        self._inputs, self._outputs, self._held = {}, ({}, {}), {}


def _check_interface(engine: Any, spec: EngineSpec) -> None:
    """Raise `BundleIncompatibleError` if the inputs and outputs are not those of ``spec``."""
    stated = {("INPUT", item.name): item for item in spec.inputs} | {
        ("OUTPUT", item.name): item for item in spec.outputs
    }
    found = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        found[engine.get_tensor_mode(name).name, name] = _DTYPES.get(dtype, dtype), tuple(engine.get_tensor_shape(name))
    differ = [key for key in stated.keys() | found.keys() if not _is_as(found.get(key), stated.get(key))]
    if differ:
        wanted = ", ".join(f"{key[1]} {stated[key]}" for key in sorted(differ) if key in stated) or "none"
        got = (
            ", ".join(f"{key[1]} {found[key][0]}{list(found[key][1])}" for key in sorted(differ) if key in found)
            or "none"
        )
        raise BundleIncompatibleError(
            "ENGINE_INTERFACE", f"{spec.file}: wanted {wanted}; the engine has {got}; --rebuild it"
        )


def _is_as(found: tuple[str, tuple[int, ...]] | None, item: TensorSpec | None) -> bool:
    """Return whether a tensor is as in the manifest; an open size (-1) fits any."""
    if found is None or item is None:
        return False
    dtype, shape = found
    known = zip(item.shape, shape, strict=False)
    return (
        dtype == item.dtype
        and len(shape) == len(item.shape)
        and all(have == -1 or isinstance(want, str) or want == have for want, have in known)
    )


class TensorrtRuntime:
    """The library's runtime, the device and the scratch memory, shared by all engines of a process."""

    title = "TensorRT"

    def __init__(self, trt: Any, device: Device) -> None:
        self.trt, self.device = trt, device
        self.logger = new_logger(trt)
        self.runtime = trt.Runtime(self.logger)
        self.scratch = Scratch(device)

    def context(self, engine: Any, path: Path) -> tuple[Any, Callable[[], None]]:
        """Return a context of ``engine`` in memory of ours, None for lack of room, and a call to make after each run."""
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return engine.create_execution_context(strategy), lambda: None

    def can_capture(self, context: Any) -> bool:
        """Return whether a run of ``context`` can be captured."""
        return True


class TensorrtBackend(DeviceBackend):
    """`compiling.CompilingBackend` on TensorRT, the module ``trt``."""

    def __init__(self, trt: Any, device: Device) -> None:
        runtime = TensorrtRuntime(trt, device)
        super().__init__("tensorrt", device, lambda path, spec: TensorrtEngine(runtime, path, spec))
        self.compiler = TensorrtCompiler(trt, device.facts)
