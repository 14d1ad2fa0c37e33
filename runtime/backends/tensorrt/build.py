"""Compiles ONNX graphs with TensorRT, and gives engines other weights. Its builder wants a GPU even to read a graph."""

import mmap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import BundleIncompatibleError, ConfigError
from ...files import write_atomic
from ..compiling import Building, GraphSource, Report

LEVELS = {"here": "NONE", "capability": "SAME_COMPUTE_CAPABILITY", "ampere": "AMPERE_PLUS"}
_AMPERE = 8


class TensorrtCompiler:
    """`compiling.Compiler` with the module ``trt``, on the machine described by ``facts``."""

    name, title = "tensorrt", "TensorRT"

    def __init__(self, trt: Any, facts: Mapping[str, str]) -> None:
        self._trt, self.facts = trt, dict(facts) | {self.name: str(trt.__version__)}

    def usual(self, precision: str) -> Building:
        return Building()

    def lacks(self, facts: Mapping[str, str], building: Building) -> tuple[str, ...]:
        own = dict(facts)
        if building.runs_on != "here":
            own.pop("gpu", None)
        if building.runs_on == "ampere" and int(self.facts.get("capability", "0").split(".")[0]) >= _AMPERE:
            own.pop("capability", None)
        return differing(own, self.facts)

    def check(self, sources: Sequence[GraphSource], building: Building, precision: str) -> str:
        if building.capabilities:
            raise ConfigError(
                "COMPILE_FOR",
                "TensorRT compiles for the GPU that it runs on; take --runs-on capability or ampere for others, or --for with "
                "--backend tensorrt_rtx",
            )
        return ""

    def compile(self, source: GraphSource, building: Building, timings: Path, report: Report) -> memoryview:
        prepared = self._prepared(source, building, report)
        self._tune(prepared.config, building, timings)
        engine = prepared.builder.build_serialized_network(prepared.network, prepared.config)
        if engine is None:
            raise self._refused("TENSORRT_BUILD", "compile", source, prepared.logger.told())
        write_atomic(timings, bytes(prepared.config.get_timing_cache().serialize()))
        return memoryview(engine)

    def refit(self, engine: Path, source: GraphSource) -> memoryview | None:
        trt, logger = self._trt, new_logger(self._trt)
        refitted = deserialized(trt.Runtime(logger), engine)
        if refitted is None or not refitted.refittable:
            return None
        refitter = trt.Refitter(refitted, logger)
        if not trt.OnnxParserRefitter(refitter, logger).refit_from_file(str(source.path)):
            return None
        return memoryview(refitted.serialize()) if refitter.refit_cuda_engine() else None

    def _prepared(self, source: GraphSource, building: Building, report: Report) -> "Prepared":
        """Return the parsed graph of ``source``, ready to be built; raises `BundleIncompatibleError` if it cannot be read."""
        trt, logger = self._trt, new_logger(self._trt)
        builder = trt.Builder(logger)
        network = builder.create_network()  # of the graph's types: TensorRT 11 has no other
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(source.path)):
            errors = (parser.get_error(index) for index in range(parser.num_errors))
            found = "; ".join(f"node {error.node()} ({error.node_operator()}): {error.desc()}" for error in errors)
            found = " ".join(found.split()) or logger.told()
            raise self._refused("TENSORRT_PARSE", "read", source, found)
        _let_attention_be_split(trt, network)
        config = self._config(builder, building, source)
        config.progress_monitor = new_monitor(trt, report)
        return Prepared(builder, network, config, logger, parser)

    def _config(self, builder: Any, building: Building, source: GraphSource) -> Any:
        trt, config = self._trt, builder.create_builder_config()
        if building.workspace_gb is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(building.workspace_gb * 1e9))
        config.clear_flag(trt.BuilderFlag.TF32)  # a float32 engine is within 1e-4 of its network; TF32 is not
        if building.streamed:
            config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
        if open_inputs := [
            spec.name for spec in source.spec.inputs if any(isinstance(size, str) for size in spec.shape)
        ]:
            profile = builder.create_optimization_profile()
            for name in open_inputs:  # the sizes of this run, and no others
                profile.set_shape(name, *(trt.Dims(source.shapes[name]),) * 3)
            config.add_optimization_profile(profile)
        return config

    def _tune(self, config: Any, building: Building, timings: Path) -> None:
        """Set the library's own options, and begin with the measurements of ``timings`` if they are of this GPU and version."""
        trt = self._trt
        config.builder_optimization_level = building.level
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, LEVELS[building.runs_on])
        if building.refit:
            config.set_flag(trt.BuilderFlag.REFIT)
        known = timings.read_bytes() if timings.is_file() else b""
        if not config.set_timing_cache(config.create_timing_cache(known), False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def _refused(self, code: str, verb: str, source: GraphSource, told: str) -> BundleIncompatibleError:
        return BundleIncompatibleError(
            code,
            f"{self.title} {self._trt.__version__} cannot {verb} {source.path.name}: {told}; use --backend onnx_cuda",
        )


class Prepared(NamedTuple):
    """A graph, ready to be built; the parser holds its weights."""

    builder: Any
    network: Any
    config: Any
    logger: Any
    parser: Any


def differing(wanted: Mapping[str, str], found: Mapping[str, str]) -> tuple[str, ...]:
    """Return the facts in ``wanted`` that are others in ``found``, in words."""
    return tuple(
        f"{name} {value} (here {found.get(name, 'none')})" for name, value in wanted.items() if found.get(name) != value
    )


def _let_attention_be_split(trt: Any, network: Any) -> None:
    """Let attention be made of other operators if no fused kernel takes it: in float32 none does, nor heads of 8 in any dtype.

    An engine with a fused kernel is the same bytes with and without this.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # the bindings give the base class
            layer.attention.decomposable = True


def deserialized(runtime: Any, engine: Path) -> Any:
    """Return the engine in the file ``engine``, None if TensorRT refuses it; its bytes are read when they are needed."""
    with engine.open("rb") as file:
        return runtime.deserialize_cuda_engine(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def new_logger(trt: Any) -> Any:
    """Return a logger of ``trt``; its `told` returns the last errors."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self._lines.append(" ".join(message.split()))

        def told(self) -> str:
            return "; ".join(self._lines[-3:]) or "it does not say why"

    return Logger()


def new_monitor(trt: Any, report: Callable[[str, int, int], None]) -> Any:
    """Return a progress monitor of ``trt``; it reports the steps of the outermost phases."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._steps[phase_name] = num_steps
                report(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                report(phase_name, step + 1, self._steps[phase_name])
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
