"""One conformance suite for every backend: memory, kernels, engines, carried outputs."""

import importlib.util
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dvgwm.runtime.backends import resample
from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.config.plugins import open_backend
from dvgwm.runtime.entries import names
from dvgwm.runtime.errors import BundleIncompatibleError, InternalError, ShapeError
from dvgwm.runtime.sampler import advance
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec
from dvgwm.runtime.types import TensorSpec

SPEC = EngineSpec(
    "sum.onnx",
    (TensorSpec("x", ("branches", 3), "float32"), TensorSpec("state", (3,), "float32")),
    (TensorSpec("y", ("branches", 3), "float32"), TensorSpec("state_out", (3,), "float32")),
    {"state_out": "state"},
    6.0,
)


def write_graph(path: Path) -> None:
    """y = x + state, state_out = state + 1."""
    onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "state"], ["y"]), helper.make_node("Add", ["state", "one"], ["state_out"])],
        "sum",
        [info("x", kind, ["branches", 3]), info("state", kind, [3])],
        [info("y", kind, ["branches", 3]), info("state_out", kind, [3])],
        [helper.make_tensor("one", kind, [3], [1.0, 1.0, 1.0])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The same graph, compiled by torch."""
    import torch

    from dvgwm.export.aoti import export_package, traced, write_weights

    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("one", torch.ones(3))

        def forward(self, x, state):
            return x + state, state + self.one

    folder = tmp_path_factory.mktemp("package")
    examples = {"x": torch.ones(2, 3), "state": torch.ones(3)}
    program = traced(Sum(), examples, {"x": "branches"}, open_backend("torch", 1)._device)
    export_package(program, folder / "g.pt2")
    write_weights(program, examples, folder / "g.safetensors")
    return folder


@pytest.fixture(
    params=[
        pytest.param("onnx", marks=pytest.mark.ort),
        pytest.param("onnx_cuda", marks=pytest.mark.ort),
        "fake",
        pytest.param("torch", marks=[pytest.mark.torch, pytest.mark.slow, pytest.mark.thorough]),
    ]
)
def backend(request):
    if request.param.startswith("onnx"):
        pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    if request.param == "onnx_cuda":
        return on_the_host()
    if request.param == "torch":
        pytest.importorskip("torch", reason="the export extra is not installed")
    return open_backend(request.param, 1)


def on_the_host():
    """Return ONNX Runtime's backend for a GPU, with the host's memory and the CPU in place of one."""
    from dvgwm.runtime.backends.onnx_cuda.engine import backend_of

    place = Path(__file__).parents[2] / "gpu_backends" / "doubles.py"
    spec = importlib.util.spec_from_file_location("doubles_of_gpus", place)
    doubles = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(doubles)
    return backend_of(doubles.HostDevice(), "cpu", "CPUExecutionProvider")


@pytest.fixture
def loaded(request, backend, tmp_path):
    folder, spec = tmp_path, SPEC
    if backend.name.startswith("onnx"):
        write_graph(tmp_path / SPEC.file)
    if backend.name == "torch":
        folder, spec = request.getfixturevalue("package"), replace(SPEC, file="g.pt2", weights="g.safetensors")
    engine = backend.load(folder / spec.file, spec)
    yield Uploading(engine, backend)
    engine.close()


class Uploading:
    """An engine that takes numpy arrays, whatever its backend's tensors are."""

    def __init__(self, engine, backend):
        self.engine, self.upload = engine, backend.upload
        self.warmup, self.close = engine.warmup, engine.close

    def run(self, arrays):
        tensors = {n: self.upload(a) if isinstance(a, np.ndarray) else a for n, a in arrays.items()}
        return self.engine.run(tensors)


def inputs(seed: int = 0, branches: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((branches, 3), np.float32), "state": np.ones(3, np.float32)}


def test_both_are_found():
    assert set(names("backends")) >= {"onnx", "fake", "torch"}


def test_upload_and_download_copy(backend):
    array = np.arange(6, dtype=np.float32)
    tensor = backend.upload(array)
    array[0] = 9
    host = backend.download(tensor)
    assert host[0] == 0
    assert np.array_equal(backend.download(backend.concatenate([tensor, tensor])), np.concatenate([host, host]))


def test_same_input_same_output_other_input_other_output(backend, loaded):
    once = backend.download(loaded.run(inputs())["y"])
    again = backend.download(loaded.run(inputs())["y"])
    other = backend.download(loaded.run(inputs(seed=1))["y"])
    assert np.array_equal(once, again)
    assert np.abs(once - other).max() > 1e-3


def test_sizes_are_chosen_at_run_time(loaded):
    loaded.warmup({"x": (2, 3), "state": (3,)})
    for branches in (1, 2, 3):
        assert loaded.run(inputs(branches=branches))["y"].shape == (branches, 3)


def test_outputs_are_reused_but_carried_ones_last_one_run_more(backend, loaded):
    first = loaded.run(inputs())
    carried = backend.download(first["state_out"])
    second = loaded.run(inputs() | {"state": first["state_out"]})
    assert np.array_equal(backend.download(first["state_out"]), carried)
    assert second["state_out"] is not first["state_out"]
    if backend.name != "torch":  # its allocator hands the same memory out again, under a new name
        assert second["y"] is first["y"]


@pytest.mark.parametrize(
    "change",
    [
        {"x": np.ones((2, 4), np.float32)},
        {"x": np.ones((2, 3), np.float64)},
        {"x": np.ones(3, np.float32)},
        {"surplus": np.ones(1, np.float32)},
    ],
)
def test_wrong_inputs_are_refused(loaded, change):
    with pytest.raises(ShapeError, match="wanted"):
        loaded.run(inputs() | change)


def test_a_missing_input_is_refused(loaded):
    with pytest.raises(ShapeError, match="wanted inputs x, state"):
        loaded.run({"x": inputs()["x"]})


def test_a_closed_engine_refuses_to_run(loaded):
    loaded.close()
    with pytest.raises(InternalError):
        loaded.run(inputs())


def test_affine_step_is_the_samplers(backend):
    rows = build_sampler(SamplerSpec("dpmpp_2m", 5, 6.0))
    rng = np.random.default_rng(3)
    state, history = rng.standard_normal((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.float32)
    velocity = rng.standard_normal((2, 2, 3), np.float32)
    device, carried = backend.upload(state), backend.upload(history)
    for step in rows.steps:
        backend.affine_step(step, device, backend.upload(velocity), carried, None)
        advance(step, state, velocity, history, None)
    assert np.allclose(backend.download(device), state, rtol=1e-5, atol=1e-6)
    assert np.allclose(backend.download(carried), history, rtol=1e-5, atol=1e-6)


def test_bridge_is_the_plain_twin(backend):
    rng = np.random.default_rng(4)
    latents, noise = rng.standard_normal((1, 2, 3, 2, 2), np.float32), rng.standard_normal((1, 2, 3, 4, 4), np.float32)
    scale, shift = np.asarray([1.0, 2.0, 0.5], np.float32), np.asarray([0.0, 0.1, 0.2], np.float32)
    made = backend.bridge(backend.upload(latents), scale, shift, backend.upload(noise), 0.859, 0.513)
    assert np.allclose(backend.download(made), resample.bridge(latents, scale, shift, noise, 0.859, 0.513), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_seen_and_large_ones_are_finite(backend, dtype, value):
    array = np.full((3, 4, 5), np.finfo(dtype).max, dtype)
    assert backend.finite(backend.upload(array))
    assert backend.finite(array), "the host's arrays too"
    assert backend.finite(backend.upload(np.arange(5, dtype=np.uint8)))
    array[1, 2, 3] = value
    array[2, 2, 3] = -value  # they must not cancel out
    assert not backend.finite(backend.upload(array))
    assert not backend.finite(array)


def test_a_warmup_gives_what_zeros_give(backend, loaded):
    made = loaded.warmup({"x": (2, 3), "state": (3,)})
    zeros = loaded.run({"x": np.zeros((2, 3), np.float32), "state": np.zeros(3, np.float32)})
    assert {name: backend.download(tensor).tolist() for name, tensor in made.items()} == {
        name: backend.download(tensor).tolist() for name, tensor in zeros.items()
    }


def test_latents_are_normalised_channel_by_channel(backend):
    rng = np.random.default_rng(6)
    latents = rng.standard_normal((1, 2, 3, 4, 5), np.float32)
    mean, std = np.asarray([0.5, -1.0, 0.0], np.float32), np.asarray([2.0, 0.25, 1.0], np.float32)
    made = backend.download(backend.normalise(backend.upload(latents), mean, std))
    expected = np.stack([(latents[:, :, i] - mean[i]) / std[i] for i in range(3)], 2)
    assert made.dtype == np.float32
    assert np.allclose(made, expected, atol=1e-6)
    made = backend.download(backend.normalise(backend.upload(latents), mean[:1], std[:1]))
    assert np.allclose(made, (latents - 0.5) / 2.0, atol=1e-6)


def test_a_copy_of_one_tensor_is_its_own(backend):
    one = backend.upload(np.ones((1, 2), np.float32))
    copy = backend.concatenate([one])
    backend.affine_step(build_sampler(SamplerSpec("euler_flow", 1)).steps[0], one, copy, None, None)
    assert (backend.download(copy) == 1.0).all()
    assert (backend.download(one) != 1.0).all()


def test_parts_and_shapes_are_those_of_numpy(backend):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    made = backend.upload(array)
    assert np.array_equal(backend.download(made[1:2, :1].reshape(1)), [6.0])
    assert np.array_equal(backend.download(made.reshape(2, -1)), array.reshape(2, -1))


def test_marks_measure_time_where_a_device_has_its_own(backend):
    start, began = backend.mark(), time.perf_counter()
    if start is None:
        return  # a call returns when its work is done
    time.sleep(0.02)
    end = backend.mark()
    backend.wait(end)
    assert 0.02 <= backend.elapsed(start, end) <= time.perf_counter() - began + 1e-3


@pytest.mark.ort
def test_another_interface_than_the_manifests_is_refused(tmp_path):
    backend = open_backend("onnx", 1)
    write_graph(tmp_path / SPEC.file)
    other = EngineSpec(SPEC.file, (TensorSpec("z", (3,), "float32"),), SPEC.outputs, {}, 0.0)
    with pytest.raises(BundleIncompatibleError, match="wanted inputs such as"):
        backend.load(tmp_path / SPEC.file, other)


@pytest.mark.ort
@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize("shape", [("branches", 4), (2, 3), ("branches", "more"), ("branches", 3, 1), (3,)])
def test_a_graph_of_other_sizes_than_the_manifests_is_refused(tmp_path, side, shape):
    backend = open_backend("onnx", 1)
    write_graph(tmp_path / SPEC.file)
    backend.load(tmp_path / SPEC.file, SPEC).close()
    first, *others = getattr(SPEC, side)
    stated = replace(SPEC, **{side: (replace(first, shape=shape), *others)})
    with pytest.raises(BundleIncompatibleError, match=f"wanted {side} such as"):
        backend.load(tmp_path / SPEC.file, stated)


@pytest.mark.ort
def test_a_graph_that_does_not_parse_is_refused(tmp_path):
    (tmp_path / SPEC.file).write_bytes(b"\x08\x0anonsense")
    with pytest.raises(BundleIncompatibleError, match="cannot load"):
        open_backend("onnx", 1).load(tmp_path / SPEC.file, SPEC)
