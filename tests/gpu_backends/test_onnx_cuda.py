"""ONNX Runtime on a GPU: its inputs, and its words if it is the wrong package; here its numbers are the CPU's."""

import re
import sys
import types
from importlib.metadata import Distribution
from pathlib import Path

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from gpu_doubles import HostDevice

from dvgwm.runtime.backends.onnx import packages as onnx_packages
from dvgwm.runtime.backends.onnx.engine import OnnxEngine
from dvgwm.runtime.backends.onnx_cuda import engine as onnx_cuda
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.config import plugins
from dvgwm.runtime.config.plugins import open_backend, shipped
from dvgwm.runtime.display.inspection import diagnose
from dvgwm.runtime.errors import ConfigError, ShapeError
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.types import Observation

pytestmark = pytest.mark.ort
GPU = "CUDAExecutionProvider" in ort.get_available_providers()


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(shipped("a1_tiny"))


@pytest.fixture
def backend():
    """The backend with the host's memory in place of a GPU's, and the CPU in place of CUDA."""
    return onnx_cuda.backend_of(HostDevice(), "cpu", "CPUExecutionProvider")


def engine_of(bundle, name="refine.onnx"):
    return next(
        engine for stage in bundle.manifest.pipeline for engine in stage.engines.values() if engine.file == name
    )


@pytest.mark.slow
def test_a_plan_whose_arrays_stay_on_the_device_is_the_same(bundle, backend):
    rng = np.random.default_rng(5)
    contract = bundle.manifest.input
    image = rng.integers(0, 256, (contract.height_px, contract.width_px, 3), np.uint8)
    seen = [Observation({contract.camera: image}, np.zeros(7), 0.0)]
    plans = []
    for opened in (open_backend("onnx", None), backend):
        with Pipeline(bundle, opened) as pipeline:
            pipeline.warmup()
            plan = pipeline.imagine(seen, "put the banana into the bowl", 1)
            plans.append((plan.frames, pipeline.act(plan, seen, plan.instruction).actions))
    np.testing.assert_array_equal(plans[0][0], plans[1][0])
    np.testing.assert_array_equal(plans[0][1], plans[1][1])


def test_inputs_and_outputs_are_bound_where_they_lie(bundle, backend, monkeypatch):
    spec = engine_of(bundle)
    engine = backend.load(bundle.file(spec.file), spec)
    bound = []

    class Binding:
        def bind_input(self, name, memory, index, dtype, shape, pointer):
            bound.append((name, memory, pointer))

        bind_output = bind_input

    class Session:
        def run_with_iobinding(self, binding, options):
            asked.append(options.get_run_config_entry("disable_synchronize_execution_providers"))

    asked = []
    monkeypatch.setattr(engine, "_binding", Binding())
    monkeypatch.setattr(engine, "_session", Session())
    inputs = {
        item.name: backend.upload(np.zeros([size if isinstance(size, int) else 1 for size in item.shape], item.dtype))
        for item in spec.inputs
    }
    outputs = engine.run(inputs)
    arrays = inputs | dict(outputs)
    assert bound == [(name, "cpu", array.address) for name, array in arrays.items()]
    assert asked == ["1"], "it is not waited for"
    with pytest.raises(ShapeError, match="upload it"):
        engine.run({name: np.zeros(array.shape, array.dtype) for name, array in inputs.items()})


def test_the_provider_is_asked_for_our_stream_and_no_tf32(bundle, monkeypatch):
    given = []

    class Session:
        def __init__(self, path, options, providers):
            given.extend(providers)
            raise RuntimeError("stop")

    monkeypatch.setattr(ort, "InferenceSession", Session)
    spec = engine_of(bundle)
    with pytest.raises(Exception, match="stop"):
        onnx_cuda.backend_of(HostDevice()).load(bundle.file(spec.file), spec)
    options = {"device_id": "0", "user_compute_stream": str(HostDevice.stream), "use_tf32": "0"}
    assert given == [("CUDAExecutionProvider", options)]


@pytest.mark.skipif(GPU, reason="this ONNX Runtime has CUDA")
def test_a_session_that_fell_back_to_the_cpu_is_refused(bundle):
    """ONNX Runtime only warns: on a robot it would be slow, and nobody would know why."""
    spec = engine_of(bundle)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(ConfigError) as caught:
        onnx_cuda.backend_of(HostDevice()).load(bundle.file(spec.file), spec)
    assert caught.value.log_code == "ONNX_PROVIDER"
    assert "wanted CUDAExecutionProvider for refine.onnx, got CPUExecutionProvider" in str(caught.value)
    assert "CUDA 13 and cuDNN 9; pip uninstall onnxruntime onnxruntime-gpu, then" in str(caught.value)


@pytest.mark.skipif(GPU, reason="this ONNX Runtime has CUDA")
def test_an_onnx_runtime_without_cuda_says_what_to_install():
    with pytest.raises(ConfigError, match=r"has .*CPUExecutionProvider; pip uninstall .*'dvgwm\[onnx-gpu\]'") as caught:
        open_backend("onnx_cuda", None)
    assert caught.value.log_code == "ONNX_GPU"


def with_packages(monkeypatch, *names):
    class Installed(Distribution):
        def __init__(self, name):
            self.name_of = name

        def read_text(self, filename):
            return f"Metadata-Version: 2.1\nName: {self.name_of}\n" if filename in ("METADATA", "PKG-INFO") else None

        def locate_file(self, path):
            return path

    monkeypatch.setattr(onnx_packages, "distributions", lambda: [Installed(name) for name in names])


def test_both_packages_together_are_refused_by_doctor_and_by_the_backend(monkeypatch, capsys):
    with_packages(monkeypatch, "numpy", "onnxruntime_gpu")
    assert diagnose("none")["command"] == "doctor"
    with_packages(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    for refuse in (lambda: diagnose("none"), lambda: open_backend("onnx_cuda", None)):
        with pytest.raises(ConfigError, match="overwrite each other; pip uninstall") as caught:
            refuse()
        assert caught.value.log_code == "ONNX_BOTH"
    assert "found" in capsys.readouterr().out, "the table is shown first"


def test_on_the_host_nothing_changed(bundle):
    spec = engine_of(bundle)
    engine = OnnxEngine(bundle.file(spec.file), spec, ort.SessionOptions())
    with pytest.raises(RuntimeError):
        engine._run_options.get_run_config_entry("disable_synchronize_execution_providers")


def test_the_page_shows_pycuda_lines_that_run(backend, monkeypatch, bundle):
    """docs/gpu.md, with an object of the structure of pycuda's array in its place."""
    page = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text("utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "pycuda" in block]
    device = backend.device

    class GPUArray:
        def __init__(self, shape, dtype, gpudata):
            self.values = device.array(gpudata, shape, np.dtype(dtype))

    class Uploaded:
        def __init__(self, values):
            self.memory = device.allocate(values.nbytes)
            device.write(self.memory.address, values)
            facts = {"shape": values.shape, "typestr": values.dtype.str, "data": (self.memory.address, False)}
            self.__cuda_array_interface__ = facts | {"strides": None, "stream": None, "version": 3}

    gpuarray = types.ModuleType("pycuda.gpuarray")
    gpuarray.GPUArray, gpuarray.to_gpu = GPUArray, Uploaded
    for name, module in {"pycuda": types.ModuleType("pycuda"), "pycuda.gpuarray": gpuarray}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "pycuda.autoprimaryctx", types.ModuleType("pycuda.autoprimaryctx"))
    monkeypatch.setattr(plugins, "open_backend", lambda name, threads: {"onnx_cuda": backend}[name])
    names = {}
    exec(compile(code, "docs/gpu.md", "exec"), names)
    spec = names["spec"]
    plain = open_backend("onnx", None).load(bundle.file(spec.file), spec)
    np.testing.assert_array_equal(names["mine"].values, plain.run({"image": names["picture"][None]})["latents"])
