"""`build_engines.py --backend tensorrt`: graphs of fixed sizes, compiled, through the gate; here the numbers are the CPU's."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from gpu_doubles import ExecutionContext

from dvgwm.export import assembly
from dvgwm.export.order import STEPS, Order
from dvgwm.export.parity import ParityError
from dvgwm.models.precision import GRAPH_PRECISIONS
from dvgwm.runtime.backends.tensorrt.engine import TensorrtBackend
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.compiled import compiled_engines
from dvgwm.runtime.engine_store import Rebuild
from dvgwm.runtime.errors import ConfigError

pytestmark = [pytest.mark.torch, pytest.mark.ort, pytest.mark.slow]


@pytest.fixture
def backend(world, monkeypatch):
    made = TensorrtBackend(world.module(), world.device)
    monkeypatch.setattr(assembly, "open_backend", lambda name, threads: {"tensorrt": made}[name])
    return made


@pytest.mark.thorough
def test_a_bundle_for_tensorrt_is_verified_on_its_engines(world, backend, tmp_path):
    told = []
    order = Order("a1_tiny", "tensorrt", tmp_path / "b", 3, layers=1, frames=9, cache=tmp_path / "cache")
    made = assembly.build_bundle(order, lambda *step: told.append(step))
    bundle = read_bundle(tmp_path / "b", "onnx")
    engines = [engine for stage in bundle.manifest.pipeline for engine in stage.engines.values()]
    assert not any(isinstance(size, str) for engine in engines for item in engine.inputs for size in item.shape)
    assert (bundle.manifest.fingerprint, made.seconds.keys() >= {"plan", "preview"}) == ({}, True)
    assert {"preview", "plan: actions"} <= set(bundle.manifest.parity)
    built = world.names().count("Builder.build_serialized_network")
    assert built == len({engine.file for engine in engines})
    assert any(step == "build" and part.endswith("preview.onnx: Building") for step, part, *_ in told)
    found = compiled_engines(
        bundle,
        bundle.manifest.pipeline,
        backend.compiler,
        tmp_path / "cache" / "engines",
        None,
        Rebuild(),
        tmp_path / "cache.key",
    )
    assert found.keys() == {engine.file for engine in engines}, "a run finds them"
    assert world.device.replays > 50, "gate and benchmark ran on captured engines"


@pytest.mark.thorough
def test_an_engine_that_computes_something_else_fails_the_gate(world, backend, tmp_path, monkeypatch):
    """The negative control: TensorRT's results are verified, not the graph's."""
    monkeypatch.setattr(ExecutionContext, "on_execute_async_v3", lambda self, stream: True)
    order = Order("a1_tiny", "tensorrt", tmp_path / "b", 3, STEPS[:3], layers=1, frames=9, cache=tmp_path / "cache")
    with pytest.raises(ParityError):
        assembly.build_bundle(order, lambda *_: None)
    assert not (tmp_path / "b").exists()


@pytest.mark.thorough
def test_a_bundle_with_engines_for_rtx_cards_is_made_without_a_gpu_and_twice_the_same(rtx_compiler, tmp_path):
    """By the real builder: graphs in float16, through their gate on the CPU, and an engine beside each of them."""
    bundles, told = [], []
    for name in ("one", "two"):
        order = Order("a1_tiny", "tensorrt_rtx", tmp_path / name, 3, STEPS[:3], layers=1, frames=9, precision="float16")
        made = assembly.build_bundle(order, lambda *_: None, told.append)
        bundles.append(made.bundle.manifest)
        assert {file for file in made.made if file.endswith(".plan")} == {
            engine.file for engine in bundles[-1].compiled
        }
    first, second = bundles
    assert len(first.compiled) == len({engine.file for stage in first.pipeline for engine in stage.engines.values()})
    assert {engine.building.capabilities for engine in first.compiled} == {("8.6", "8.9", "12.0")}
    assert {(*engine.facts.items(),) for engine in first.compiled} == {
        (("tensorrt_rtx", rtx_compiler.trt.__version__),)
    }
    assert first.files == second.files, "the same bytes"
    assert any("GeForce RTX 50" in line and "GB of memory" in line for line in told)
    assert first.parity, "the graphs passed their gates"


def test_what_engines_for_rtx_cards_cannot_be_is_refused_before_anything_is_made(rtx_compiler, tmp_path):
    order = Order("a1_tiny", "tensorrt_rtx", tmp_path / "b", 0, precision="fp8", calibrate=tmp_path)
    with pytest.raises(ConfigError, match=r"in fp8, got 8\.6"):
        replace(order, capabilities=("8.6", "8.9")).checked()
    with pytest.raises(ConfigError, match="wanted --for with --backend tensorrt_rtx only"):
        Order("a1_tiny", "onnx", tmp_path / "b", 0, capabilities=("8.6",)).checked()
    with pytest.raises(ConfigError, match="not checked here"):
        replace(order, precision="bfloat16", calibrate=None).checked()
    assert order.building(rtx_compiler).capabilities == ("8.9", "12.0")


def test_bfloat16_is_verified_where_it_can_be(tmp_path):
    order = Order("test_tiny", "tensorrt", tmp_path / "b", 0, precision="bfloat16")
    assert order.checked().name == "test_tiny"
    assert order.dtype == GRAPH_PRECISIONS["bfloat16"].dtype
    with pytest.raises(ConfigError, match="or with --backend tensorrt"):
        replace(order, backend="onnx").checked()
    assert np.all([order.has_fixed_sizes, not replace(order, backend="onnx").has_fixed_sizes])
