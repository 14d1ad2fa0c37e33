"""Stand-ins for a GPU, held against the real libraries: every name, argument and type has to be theirs.

The bindings of TensorRT 11 are real; in place of libnvinfer, `Double` takes the call if the bindings would, notes it, and
`World` has the answer: engines are ONNX Runtime's, on the host's memory.
"""

import ctypes
import inspect
import json
import re
import subprocess
import time
from pathlib import Path

import numpy as np

FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL", "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry",
    "initLibNvInferPlugins",
)  # fmt: skip
LIBRARIES = {"libnvinfer.so.11": FUNCTIONS, "libnvinfer_plugin.so.11": (), "libnvonnxparser.so.11": ()}
ALIASES = {"nvonnxparser::IParserError": "ParserError", "nvinfer1::IRuntimeCache": "IRuntimeCache"}
"""Classes that the bindings' docstrings call by their C++ names."""
ONNX_TYPES = {
    "tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(uint8)": "UINT8", "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
}  # fmt: skip


def real_bindings(folder: Path):
    """Return NVIDIA's own bindings, imported over empty libraries compiled into ``folder``."""
    for name, functions in LIBRARIES.items():
        source = folder / f"{name}.c"
        source.write_text("\n".join(f"void *{function}(void) {{ return 0; }}" for function in functions) + "\n")
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, source]
        subprocess.run(command, check=True, timeout=60)
        ctypes.CDLL(str(folder / name))  # not global: TensorRT for RTX has functions of the same names
    import tensorrt_bindings

    return tensorrt_bindings


def signatures(function):
    """Return the overloads of one of the bindings' functions, from its docstring: parameters (name, type, optional), result."""
    found = []
    for line in function.__doc__.splitlines():
        match = re.match(r"\s*(?:\d+\. )?\w*\((.*)\) -> (.+?)\s*$", line)
        if match and "*args" not in line:
            parts = _split(match[1])[1:]  # without self
            parameters = []
            for part in parts:
                name, _, kind = part.partition(": ")
                kind, _, default = kind.partition(" = ")
                parameters.append((name, kind, bool(default)))
            found.append((parameters, match[2]))
    return found


def _split(text):
    parts, depth, begin = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "[<(") - (letter in "]>)")
        if letter == "," and depth == 0:
            parts.append(text[begin:at].strip())
            begin = at + 1
    return [*parts, text[begin:].strip()] if text.strip() else []


class World:
    """The world behind the doubles: the calls so far, and their results."""

    def __init__(self, trt):
        self.trt, self.calls = trt, []
        self.capturable, self.code, self.loaded = True, b"", None
        self.refitted = True
        self.streamable, self.refittable = 0, True
        self.known_timings = b"timings"
        self._sessions = {}

    def real(self, kind):
        """Return the class of the bindings by its name in a docstring, None for a type of Python's."""
        package = self.trt.__name__
        prefix = f"{package}.{package.removesuffix('_bindings')}."
        name = ALIASES.get(kind) or (kind.removeprefix(prefix) if kind.startswith(prefix) else None)
        return name and getattr(self.trt, name)

    def default(self, name):
        """Return a new double of the bindings' class ``name``."""
        real = getattr(self.trt, name)
        return BEHAVIOUR.get(real.__name__, Double)(self, real)

    def session(self, graph):
        """Return ONNX Runtime's session of a graph, the same for all engines of it."""
        import onnxruntime as ort

        if graph not in self._sessions:
            options = ort.SessionOptions()
            options.add_session_config_entry("session.disable_quant_qdq", "1")
            self._sessions[graph] = ort.InferenceSession(graph, options, ["CPUExecutionProvider"])
        return self._sessions[graph]

    def module(self):
        """Return the bindings with doubles for the classes of libnvinfer."""
        world = self

        class Module:
            def __getattr__(self, name):
                real = getattr(world.trt, name)
                if name in ("Builder", "OnnxParser", "Runtime", "Refitter", "OnnxParserRefitter"):
                    return lambda *arguments: world.made(real, arguments)
                return real

        return Module()

    def made(self, real, arguments):
        """Return the double of a constructor's result."""
        _checked(self, real.__init__, arguments, real.__name__)
        self.calls.append((real.__name__, "__init__", arguments))
        double = BEHAVIOUR.get(real.__name__, Double)(self, real)
        double.__dict__["given"] = arguments
        return double

    def names(self):
        """Return the calls without their arguments, as one reads them."""
        return [f"{owner}.{name}" for owner, name, _ in self.calls]


class Double:
    """An object of one of the bindings' classes; it refuses any member and argument that the class would."""

    def __init__(self, world, real):
        self.__dict__.update(world=world, real=real, given=(), state={})

    def __getattr__(self, name):
        member = inspect.getattr_static(self.real, name)  # an AttributeError is the test's finding
        if isinstance(member, property):
            if name in self.state:
                return self.state[name]
            answer = getattr(type(self), f"on_{name}", None)
            return answer(self) if answer else self._default(signatures(member.fget)[0][1])
        function = getattr(self.real, name)

        def call(*arguments):
            result = _checked(self.world, function, arguments, f"{self.real.__name__}.{name}")
            self.world.calls.append((self.real.__name__, name, arguments))
            answer = getattr(type(self), f"on_{name}", None)
            return answer(self, *arguments) if answer else self._default(result)

        return call

    def __setattr__(self, name, value):
        member = inspect.getattr_static(self.real, name)
        _checked(self.world, member.fset, (value,), f"{self.real.__name__}.{name} =")
        self.world.calls.append((self.real.__name__, name, (value,)))
        self.state[name] = value

    def _default(self, kind):
        if real := self.world.real(kind):
            return self.world.default(real.__name__)
        return {"bool": True, "int": 0, "str": "", "None": None}[kind]


def _checked(world, function, arguments, where):
    """Return the result's type of the overload for ``arguments``; fail if there is none."""
    overloads = signatures(function)
    for parameters, result in overloads:
        required = sum(not optional for *_, optional in parameters)
        if required <= len(arguments) <= len(parameters) and all(
            _fits(world, value, kind) for value, (_, kind, _) in zip(arguments, parameters, strict=False)
        ):
            return result
    raise AssertionError(f"{where} takes {overloads}, not {arguments}")


def _fits(world, value, kind):
    if real := world.real(kind):
        return issubclass(value.real, real) if isinstance(value, Double) else isinstance(value, real)
    if kind == "typing.SupportsInt":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "typing_extensions.Buffer":
        return memoryview(value) is not None
    return isinstance(value, {"str": str, "bool": bool, "tuple": tuple}[kind])


class OnnxParser(Double):
    def on_parse_from_file(self, model):
        self.given[0].state["graph"] = model
        return True


class Builder(Double):
    def on_build_serialized_network(self, network, config):
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 1)
        monitor.step_complete("Building", 0)
        monitor.phase_finish("Building")
        if Path(network.state["graph"]).stat().st_size > 100:  # else it is none, and nobody runs it
            self.world.session(network.state["graph"])
        return json.dumps({"graph": network.state["graph"], "profile": config.state.get("profile", {})}).encode()


class OptimizationProfile(Double):
    def on_set_shape(self, name, low, best, high):
        assert tuple(low) == tuple(best) == tuple(high), "profiles are static"
        self.state[name] = list(best)


class BuilderConfig(Double):
    def on_add_optimization_profile(self, profile):
        self.state["profile"] = profile.state
        return 0

    def on_set_timing_cache(self, cache, ignore_mismatch):
        return cache.state.get("bytes", b"") in (b"", self.world.known_timings)

    def on_create_timing_cache(self, serialized):
        cache = self.world.default("ITimingCache")
        cache.state["bytes"] = bytes(serialized)
        return cache


class TimingCache(Double):
    def on_serialize(self):
        return self.world.known_timings


class Refitter(Double):
    def on_refit_cuda_engine(self):
        return self.world.refitted


class OnnxParserRefitter(Double):
    def on_refit_from_file(self, model):
        self.given[0].given[0].state["plan"]["graph"] = model
        return True


class Runtime(Double):
    def on_deserialize_cuda_engine(self, data):
        engine = self.world.default("ICudaEngine")
        if bytes(data[:1]) != b"{":
            self.given[0].log(self.world.trt.ILogger.Severity.ERROR, "another version wrote it")
            return None
        engine.state["plan"] = json.loads(bytes(data))
        return engine


class CudaEngine(Double):
    """An engine: ONNX Runtime's session of its graph."""

    @property
    def session(self):
        return self.world.session(self.state["plan"]["graph"])

    @property
    def parts(self):
        return [("INPUT", part) for part in self.session.get_inputs()] + [
            ("OUTPUT", part) for part in self.session.get_outputs()
        ]

    def part(self, name):
        return next((side, part) for side, part in self.parts if part.name == name)

    def on_num_io_tensors(self):
        return len(self.parts)

    def on_get_tensor_name(self, index):
        return self.parts[index][1].name

    def on_get_tensor_mode(self, name):
        return self.world.trt.TensorIOMode.__members__[self.part(name)[0]]

    def on_get_tensor_dtype(self, name):
        return self.world.trt.DataType.__members__[ONNX_TYPES[self.part(name)[1].type]]

    def on_get_tensor_shape(self, name):
        return self.world.trt.Dims([size if isinstance(size, int) else -1 for size in self.part(name)[1].shape])

    def on_get_tensor_profile_shape(self, name, profile):
        assert profile == 0
        return [self.world.trt.Dims(self.state["plan"]["profile"][name])] * 3

    def on_device_memory_size_v2(self):
        return self.world.wants.get(Path(self.state["plan"]["graph"]).name, 4096)

    def on_refittable(self):
        return self.world.refittable

    def on_streamable_weights_size(self):
        return self.world.streamable

    def on_get_weight_streaming_automatic_budget(self):
        return 77

    def on_serialize(self):
        return json.dumps(self.state["plan"]).encode()

    def on_create_execution_context(self, strategy):
        """TensorRT takes a strategy, TensorRT for RTX a configuration, too."""
        if isinstance(strategy, Double):
            assert strategy.state["strategy"] == self.world.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self.world.default("IExecutionContext")
        context.state.update(of=self, addresses={}, shapes={}, scratch=0)
        return context


class RuntimeConfig(Double):
    """The run options of an engine of TensorRT for RTX."""

    def on_set_execution_context_allocation_strategy(self, strategy):
        self.state["strategy"] = strategy


class RuntimeCache(Double):
    """The code of an engine's first run."""

    def on_deserialize(self, blob):
        self.world.loaded = bytes(blob)
        return True

    def on_serialize(self):
        return self.world.code


class ExecutionContext(Double):
    def on_is_stream_capturable(self, stream):
        assert stream == self.world.device.stream
        return self.world.capturable

    def on_set_input_shape(self, name, shape):
        self.state["shapes"][name] = tuple(shape)
        return True

    def on_get_tensor_shape(self, name):
        """As TensorRT does, from the inputs' shapes: here by running zeros."""
        session = self.state["of"].session
        feeds = {}
        for part in session.get_inputs():
            feeds[part.name] = np.zeros(self.shape(part), _dtype(part))
        values = session.run(None, feeds)
        outputs = {part.name: value.shape for part, value in zip(session.get_outputs(), values, strict=True)}
        return self.world.trt.Dims(outputs[name])

    def shape(self, part):
        return self.state["shapes"].get(part.name) or tuple(part.shape)

    def on_set_device_memory(self, memory, size):
        assert memory % 256 == 0
        assert size >= self.state["of"].on_device_memory_size_v2()
        self.state["scratch"] = memory

    def on_set_tensor_address(self, name, memory):
        self.state["addresses"][name] = memory
        return True

    def on_execute_async_v3(self, stream):
        addresses, scratch = dict(self.state["addresses"]), self.state["scratch"]

        def run():
            session = self.state["of"].session
            self.world.device.assert_alive(scratch)
            feeds = {
                p.name: self.world.device.array(addresses[p.name], self.shape(p), _dtype(p))
                for p in session.get_inputs()
            }
            for part, value in zip(session.get_outputs(), session.run(None, feeds), strict=True):
                self.world.device.array(addresses[part.name], value.shape, value.dtype)[...] = value

        self.world.device.enqueue(run)
        return True


def _dtype(part):
    return {"FLOAT": "float32", "HALF": "float16"}.get(ONNX_TYPES[part.type], ONNX_TYPES[part.type].lower())


BEHAVIOUR = {
    "Builder": Builder, "IBuilderConfig": BuilderConfig, "ICudaEngine": CudaEngine, "IExecutionContext": ExecutionContext,
    "IOptimizationProfile": OptimizationProfile, "IRuntimeCache": RuntimeCache,
    "IRuntimeConfig": RuntimeConfig, "ITimingCache": TimingCache, "OnnxParser": OnnxParser,
    "OnnxParserRefitter": OnnxParserRefitter, "Refitter": Refitter, "Runtime": Runtime,
}  # fmt: skip


class HostDevice:
    """`device_array.Device` on the host's memory: captured work is done when it is replayed, and freed memory is seen."""

    stream = 4711

    def __init__(self, gpu="none", capability="9.0"):
        self.facts = {"gpu": gpu, "capability": capability, "driver": "580.95"}
        self.most = 0
        self.blocks, self.recorded, self.followed, self.replays, self.steps = {}, None, [], 0, 0
        self.waits = []

    def allocate(self, nbytes):
        device = self

        class Block:
            def __init__(self):
                self._raw = np.full(nbytes + 256, 0xEE, np.uint8)
                self.address = -(-self._raw.ctypes.data // 256) * 256
                device.blocks[self.address] = nbytes
                device.most = max(device.most, sum(device.blocks.values()))

            def __del__(self):
                del device.blocks[self.address]

        return Block()

    def assert_alive(self, address, nbytes=0):
        assert any(begin <= address <= begin + size - nbytes for begin, size in self.blocks.items()), (
            "memory that is not ours"
        )

    def array(self, address, shape, dtype):
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.assert_alive(address, nbytes)
        return np.frombuffer((ctypes.c_char * nbytes).from_address(address), dtype).reshape(shape)

    def enqueue(self, work):
        work() if self.recorded is None else self.recorded.append(work)

    def write(self, address, array):
        assert array.flags["C_CONTIGUOUS"]
        self.array(address, array.shape, array.dtype)[...] = array

    def read(self, array, address):
        array[...] = self.array(address, array.shape, array.dtype)

    def copy(self, target, source, nbytes):
        self.array(target, (nbytes,), np.uint8)[...] = self.array(source, (nbytes,), np.uint8)

    def follow(self, stream):
        self.followed.append(stream)

    def capture(self, work):
        self.recorded = []
        work()
        done, self.recorded = self.recorded, None

        def replay():
            self.replays += 1
            for each in done:
                each()

        return replay

    def affine_step(self, step, state, velocity, history, noise, count, branches, dtypes):
        from dvgwm.runtime.sampler import advance

        assert count == np.prod(state.shape)
        assert dtypes == ("fp32", "fp32")
        x, v, h, xi = (
            None if part is None else self.array(part.address, part.shape, part.dtype)
            for part in (state, velocity, history, noise)
        )
        assert len(v) == branches * len(x)
        self.steps += 1
        advance(step, x, v, h, xi)

    def bridge(self, output, latents, scale, shift, noise, signal, strength, sizes, dtype):
        from dvgwm.runtime.backends import resample

        parts = [self.array(part.address, part.shape, part.dtype) for part in (latents, scale, shift, noise)]
        frames, channels, height, width, *to = sizes
        assert parts[0].shape == (1, frames, channels, height, width)
        assert parts[3].shape == (
            1,
            to[0],
            channels,
            *to[1:],
        )
        self.array(output.address, output.shape, output.dtype)[...] = resample.bridge(*parts, signal, strength)

    def mark(self):
        return time.perf_counter()

    def wait(self, mark):
        self.waits.append(mark)

    def elapsed(self, start, end):
        return end - start

    def synchronize(self):
        pass
