"""The calls of TensorRT's own builder: levels, timing cache, other weights.

It wants a GPU even to read a graph, so these calls are recorded and held against its real bindings. The calls shared with
TensorRT for RTX are proven by the real builder there (`test_rtx_builder.py`).
"""

import json

import pytest

from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.backends.compiling import RUNS_ON, Building, GraphSource
from dvgwm.runtime.backends.tensorrt.build import LEVELS, TensorrtCompiler
from dvgwm.runtime.commands.line import compile_engines
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.types import TensorSpec

FACTS = {"gpu": "NVIDIA H100", "capability": "9.0", "driver": "580.95"}


@pytest.fixture
def source(tmp_path):
    """A graph with an open size, and one without."""
    graph = tmp_path / "preview.onnx"
    graph.write_bytes(b"graph")
    state, text = TensorSpec("state", (1, 3, 4), "float32"), TensorSpec("text", ("branches", 8), "float32")
    spec = EngineSpec("preview.onnx", (state, text), (TensorSpec("velocity", (1, 3, 4), "float32"),), {}, 1.0)
    return GraphSource(graph, spec, {"state": (1, 3, 4), "text": (2, 8)}, "g" * 64, "w" * 64)


@pytest.fixture
def compiler(world):
    return TensorrtCompiler(world.module(), FACTS)


def arguments_of(world, name):
    return [arguments for owner, called, arguments in world.calls if f"{owner}.{called}" == name]


def test_what_was_asked_for_is_what_is_set(world, compiler, source, tmp_path):
    trt = world.trt
    compiler.compile(source, Building(None, "ampere", True, True, 5), tmp_path / "timings", lambda *_: None)
    assert arguments_of(world, "IBuilderConfig.builder_optimization_level") == [(5,)]
    assert arguments_of(world, "IBuilderConfig.hardware_compatibility_level") == [
        (trt.HardwareCompatibilityLevel.AMPERE_PLUS,)
    ]
    flags = {flag for (flag,) in arguments_of(world, "IBuilderConfig.set_flag")}
    assert flags == {trt.BuilderFlag.REFIT, trt.BuilderFlag.WEIGHT_STREAMING}


def test_only_open_sizes_get_a_profile_of_one_size(world, compiler, source, tmp_path):
    compiler.compile(source, Building(), tmp_path / "timings", lambda *_: None)
    ((name, *shapes),) = arguments_of(world, "IOptimizationProfile.set_shape")
    assert (name, [tuple(shape) for shape in shapes]) == ("text", [(2, 8)] * 3)
    world.calls.clear()
    fixed = EngineSpec("preview.onnx", source.spec.inputs[:1], source.spec.outputs, {}, 1.0)
    compiler.compile(
        GraphSource(source.path, fixed, source.shapes, "g", "w"), Building(), tmp_path / "timings", lambda *_: None
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


def test_another_lora_needs_no_build(world, compiler, source, tmp_path):
    engine, other = tmp_path / "old.plan", tmp_path / "other.onnx"
    engine.write_bytes(bytes(compiler.compile(source, Building(), tmp_path / "timings", lambda *_: None)))
    world.calls.clear()
    # TensorRT for RTX gives no other weights ahead of time, so no real library runs this sequence without a GPU.
    refitted = compiler.refit(engine, GraphSource(other, source.spec, source.shapes, source.graph, "other"))
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


def test_engines_for_other_gpus_are_not_made_here(compiler, source):
    with pytest.raises(ConfigError, match="take --runs-on capability"):
        compiler.check((source,), Building(capabilities=("8.6",)), "float32")
    assert compiler.check((source,), Building(), "fp8") == ""


def test_the_doubles_refuse_what_the_bindings_would(world):
    """The negative control: other names, numbers and types of arguments than TensorRT's."""
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
