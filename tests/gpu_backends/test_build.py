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
    """The negative control: what is verified is what TensorRT gives, not what the graph would."""
    monkeypatch.setattr(ExecutionContext, "on_execute_async_v3", lambda self, stream: True)
    order = Order("a1_tiny", "tensorrt", tmp_path / "b", 3, STEPS[:3], layers=1, frames=9, cache=tmp_path / "cache")
    with pytest.raises(ParityError):
        assembly.build_bundle(order, lambda *_: None)
    assert not (tmp_path / "b").exists()


def test_bfloat16_is_verified_where_it_can_be(tmp_path):
    order = Order("test_tiny", "tensorrt", tmp_path / "b", 0, precision="bfloat16")
    assert order.checked().name == "test_tiny"
    assert order.dtype == GRAPH_PRECISIONS["bfloat16"].dtype
    with pytest.raises(ConfigError, match="or with --backend tensorrt"):
        replace(order, backend="onnx").checked()
    assert np.all([order.has_fixed_sizes, not replace(order, backend="onnx").has_fixed_sizes])
