"""How TensorRT is asked to compile a graph: the calls, held against its real bindings, and what it says where it refuses."""

import json

import pytest

from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.backends.compiling import RUNS_ON, Building, Source
from dvgwm.runtime.backends.tensorrt.build import LEVELS, TensorrtCompiler
from dvgwm.runtime.commands.line import compile_engines
from dvgwm.runtime.errors import BundleIncompatibleError
from dvgwm.runtime.types import TensorSpec

FACTS = {"gpu": "NVIDIA H100", "capability": "9.0", "driver": "580.95"}


@pytest.fixture
def source(tmp_path):
    """A graph with a size that is open, and one that has none."""
    graph = tmp_path / "preview.onnx"
    graph.write_bytes(b"graph")
    state, text = TensorSpec("state", (1, 3, 4), "float32"), TensorSpec("text", ("branches", 8), "float32")
    spec = EngineSpec("preview.onnx", (state, text), (TensorSpec("velocity", (1, 3, 4), "float32"),), {}, 1.0)
    return Source(graph, spec, {"state": (1, 3, 4), "text": (2, 8)}, "g" * 64, "w" * 64)


@pytest.fixture
def compiler(world):
    return TensorrtCompiler(world.module(), FACTS)


def arguments_of(world, name):
    return [arguments for owner, called, arguments in world.calls if f"{owner}.{called}" == name]


def test_the_calls_are_these(world, compiler, source, tmp_path):
    """The recorded sequence of one build: a change of it is a change of what TensorRT is asked for."""
    engine = compiler.compile(source, Building(workspace_gb=4.0), tmp_path / "timings", lambda *_: None)
    assert json.loads(bytes(engine)) == {"graph": str(source.path), "profile": {"text": [2, 8]}}
    assert world.names() == [
        "Builder.__init__",
        "Builder.create_network",
        "OnnxParser.__init__",
        "OnnxParser.parse_from_file",
        "Builder.create_builder_config",
        "IBuilderConfig.set_memory_pool_limit",
        "IBuilderConfig.builder_optimization_level",
        "IBuilderConfig.hardware_compatibility_level",
        "IBuilderConfig.clear_flag",
        "IBuilderConfig.set_flag",
        "Builder.create_optimization_profile",
        "IOptimizationProfile.set_shape",
        "IBuilderConfig.add_optimization_profile",
        "IBuilderConfig.create_timing_cache",
        "IBuilderConfig.set_timing_cache",
        "IBuilderConfig.progress_monitor",
        "Builder.build_serialized_network",
        "IBuilderConfig.get_timing_cache",
        "ITimingCache.serialize",
    ]


def test_what_was_asked_for_is_what_is_set(world, compiler, source, tmp_path):
    trt = world.trt
    compiler.compile(source, Building(2.5, "ampere", True, True, 5), tmp_path / "timings", lambda *_: None)
    assert arguments_of(world, "IBuilderConfig.set_memory_pool_limit") == [
        (trt.MemoryPoolType.WORKSPACE, 2_500_000_000)
    ]
    assert arguments_of(world, "IBuilderConfig.builder_optimization_level") == [(5,)]
    assert arguments_of(world, "IBuilderConfig.hardware_compatibility_level") == [
        (trt.HardwareCompatibilityLevel.AMPERE_PLUS,)
    ]
    assert arguments_of(world, "IBuilderConfig.set_flag") == [
        (trt.BuilderFlag.REFIT,),
        (trt.BuilderFlag.WEIGHT_STREAMING,),
    ]
    assert arguments_of(world, "IBuilderConfig.clear_flag") == [(trt.BuilderFlag.TF32,)]


def test_only_open_sizes_get_a_profile_of_one_size(world, compiler, source, tmp_path):
    compiler.compile(source, Building(), tmp_path / "timings", lambda *_: None)
    ((name, *shapes),) = arguments_of(world, "IOptimizationProfile.set_shape")
    assert (name, [tuple(shape) for shape in shapes]) == ("text", [(2, 8)] * 3)
    world.calls.clear()
    fixed = EngineSpec("preview.onnx", source.spec.inputs[:1], source.spec.outputs, {}, 1.0)
    compiler.compile(
        Source(source.path, fixed, source.shapes, "g", "w"), Building(), tmp_path / "timings", lambda *_: None
    )
    assert "Builder.create_optimization_profile" not in world.names()


def test_every_gpu_choice_is_one_of_the_bindings(world):
    assert set(LEVELS) == set(RUNS_ON)
    (option,) = (option for option in compile_engines.params if option.name == "runs_on")
    assert tuple(option.type.choices) == RUNS_ON
    assert all(level in world.trt.HardwareCompatibilityLevel.__members__ for level in LEVELS.values())


def test_what_was_measured_before_is_taken_where_it_fits(world, compiler, source, tmp_path):
    timings = tmp_path / "timings"
    compiler.compile(source, Building(), timings, lambda *_: None)
    assert timings.read_bytes() == world.known_timings
    assert arguments_of(world, "IBuilderConfig.create_timing_cache") == [(b"",)]
    world.calls.clear()
    compiler.compile(source, Building(), timings, lambda *_: None)
    assert arguments_of(world, "IBuilderConfig.create_timing_cache") == [(b"timings",)]
    world.calls.clear()
    timings.write_bytes(b"of another GPU")
    compiler.compile(source, Building(), timings, lambda *_: None)
    assert arguments_of(world, "IBuilderConfig.create_timing_cache") == [(b"of another GPU",), (b"",)]
    assert [flag for _, flag in arguments_of(world, "IBuilderConfig.set_timing_cache")] == [False, False]


def test_progress_is_that_of_the_outermost_phase(compiler, source, tmp_path):
    told = []
    compiler.compile(source, Building(), tmp_path / "timings", lambda *step: told.append(step))
    assert told == [("Building", 0, 2), ("Building", 1, 2), ("Building", 2, 2)]


def test_what_cannot_be_read_or_built_says_why(world, compiler, source, tmp_path):
    world.unreadable = "no importer for Frobnicate"
    with pytest.raises(
        BundleIncompatibleError, match=r"cannot read preview\.onnx: node 7: no importer for Frobnicate;"
    ) as caught:
        compiler.compile(source, Building(), tmp_path / "timings", lambda *_: None)
    assert caught.value.log_code == "TENSORRT_PARSE"
    world.unreadable, world.unbuildable = "", True
    with pytest.raises(BundleIncompatibleError, match=r"cannot compile preview\.onnx: no tactic fits;") as caught:
        compiler.compile(source, Building(), tmp_path / "timings", lambda *_: None)
    assert caught.value.log_code == "TENSORRT_BUILD"
    assert "not to be told" not in str(caught.value)
    assert not (tmp_path / "timings").exists()


def test_another_lora_needs_no_build(world, compiler, source, tmp_path):
    engine, other = tmp_path / "old.plan", tmp_path / "other.onnx"
    engine.write_bytes(bytes(compiler.compile(source, Building(), tmp_path / "timings", lambda *_: None)))
    world.calls.clear()
    refitted = compiler.refit(engine, Source(other, source.spec, source.shapes, source.graph, "other"))
    assert json.loads(bytes(refitted)) == {"graph": str(other), "profile": {"text": [2, 8]}}
    assert world.names() == [
        "Runtime.__init__",
        "Runtime.deserialize_cuda_engine",
        "Refitter.__init__",
        "OnnxParserRefitter.__init__",
        "OnnxParserRefitter.refit_from_file",
        "Refitter.refit_cuda_engine",
        "ICudaEngine.serialize",
    ]
    world.refitted = False
    assert compiler.refit(engine, source) is None
    world.refitted, world.refittable = True, False
    world.calls.clear()
    assert compiler.refit(engine, source) is None
    assert "Refitter.__init__" not in world.names(), "an engine that takes none is not asked"
    engine.write_bytes(b"another version's")
    assert compiler.refit(engine, source) is None


def test_the_doubles_refuse_what_the_bindings_would(world):
    """The negative control: names, numbers and types of arguments that are not TensorRT's."""
    module = world.module()
    from dvgwm.runtime.backends.tensorrt.build import new_logger

    builder = module.Builder(new_logger(module))
    config = builder.create_builder_config()
    for wrong in (
        lambda: builder.build_engine(1, 2),
        lambda: module.BuilderFlag.FP16,
        lambda: config.set_flag("REFIT"),
        lambda: config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE),
        lambda: config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, 1.5),
        lambda: setattr(config, "max_workspace_size", 1),
        lambda: module.OnnxParser(config, new_logger(module)),
    ):
        with pytest.raises((AttributeError, AssertionError)):
            wrong()
