"""A TensorRT engine's buffers, scratch memory and captures, with ONNX Runtime on the host's memory in place of a GPU."""

import json
import weakref
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from onnx import TensorProto, helper

from dvgwm.runtime.backends import resample
from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.backends.device_array import viewed
from dvgwm.runtime.backends.tensorrt.engine import Scratch, TensorrtBackend
from dvgwm.runtime.errors import BundleIncompatibleError, EngineLostError, InternalError, ShapeError
from dvgwm.runtime.sampler import advance
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec
from dvgwm.runtime.types import TensorSpec

pytestmark = pytest.mark.ort
ADD = EngineSpec(
    "add.onnx",
    (TensorSpec("x", ("rows", 2), "float32"), TensorSpec("y", (1, 2), "float32")),
    (TensorSpec("sum", ("rows", 2), "float32"),),
    {},
    1.0,
)
COUNT = EngineSpec(
    "count.onnx",
    (TensorSpec("total", (2,), "float32"),),
    (TensorSpec("next", (2,), "float32"),),
    {"next": "total"},
    1.0,
)


def write(folder, name, inputs, outputs, nodes, constants=()):
    def described(parts):
        return [helper.make_tensor_value_info(part, TensorProto.FLOAT, shape) for part, shape in parts.items()]

    graph = helper.make_graph(nodes, name, described(inputs), described(outputs), list(constants))
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / f"{name}.onnx"
    )
    plan = folder / f"{name}.plan"
    plan.write_text(json.dumps({"graph": str(folder / f"{name}.onnx"), "profile": {"x": [3, 2]}}))
    return plan


@pytest.fixture
def add(tmp_path):
    """An engine with open sizes, compiled for three rows."""
    node = helper.make_node("Add", ["x", "y"], ["sum"])
    return write(tmp_path, "add", {"x": ("rows", 2), "y": (1, 2)}, {"sum": ("rows", 2)}, [node])


@pytest.fixture
def count(tmp_path):
    """An engine with its last output as its input."""
    node, one = (
        helper.make_node("Add", ["total", "one"], ["next"]),
        helper.make_tensor("one", TensorProto.FLOAT, (2,), [1, 1]),
    )
    return write(tmp_path, "count", {"total": (2,)}, {"next": (2,)}, [node], [one])


@pytest.fixture
def backend(world):
    return TensorrtBackend(world.module(), world.device)


def rows(backend, *values):
    return backend.upload(np.asarray(values, np.float32))


def test_the_second_run_and_all_later_ones_are_one_launch(world, backend, add):
    engine = backend.load(add, ADD)
    for turn in range(4):
        x, y = rows(backend, [turn, 1], [2, 3], [4, 5]), rows(backend, [10, 20])
        got = backend.download(engine.run({"x": x, "y": y})["sum"])
        np.testing.assert_array_equal(got, [[turn + 10, 21], [12, 23], [14, 25]])
    assert world.device.replays == 3
    assert world.names().count("IExecutionContext.set_tensor_address") == 3, "places are bound once"
    assert world.names().count("IExecutionContext.execute_async_v3") == 2, "once for itself, once to be captured"


def test_warming_up_captures(world, backend, add):
    engine = backend.load(add, ADD)
    got = engine.warmup({"x": (3, 2), "y": (1, 2)})
    assert not backend.download(got["sum"]).any()
    assert world.device.replays == 1


def test_a_carried_output_outlives_the_next_run(world, backend, count):
    engine = backend.load(count, COUNT)
    carried = rows(backend, 5, 7)
    for turn in range(1, 5):
        last, carried = carried, engine.run({"total": carried})["next"]
        np.testing.assert_array_equal(backend.download(carried), [5 + turn, 7 + turn])
        np.testing.assert_array_equal(backend.download(last), [4 + turn, 6 + turn])
    assert world.device.replays == 0, "its addresses change from run to run"


def test_a_carried_output_outlives_scratch_memory_that_moves(world, backend, count, add):
    engine = backend.load(count, COUNT)
    first = engine.run({"total": rows(backend, 5, 7)})["next"]
    world.wants["add.onnx"] = 99_000
    backend.load(add, ADD)
    second = engine.run({"total": first})["next"]
    np.testing.assert_array_equal(backend.download(second), [7, 9])
    np.testing.assert_array_equal(backend.download(first), [6, 8])


def test_engines_share_scratch_memory_and_follow_it(world, backend, add, count):
    world.wants |= {"add.onnx": 512, "count.onnx": 99_000}
    small = backend.load(add, ADD)
    inputs = {"x": rows(backend, [1, 1], [1, 1], [1, 1]), "y": rows(backend, [1, 1])}
    small.run(inputs)
    small.run(inputs)
    before = [owner for owner in world.calls if owner[1] == "set_device_memory"]
    large = backend.load(count, COUNT)
    large.run({"total": rows(backend, 0, 0)})
    np.testing.assert_array_equal(backend.download(small.run(inputs)["sum"]), np.full((3, 2), 2.0))
    after = [size for _, name, arguments in world.calls if name == "set_device_memory" for size in arguments[1:]]
    assert (len(before), after) == (1, [512, 99_000, 99_000])
    assert sum(size == 99_000 for size in world.device.blocks.values()) == 1
    assert 512 not in world.device.blocks.values(), "the smaller piece is free"
    world.wants["add.onnx"] = 600
    backend.load(add, ADD)
    small.run(inputs)
    assert len([1 for _, name, _ in world.calls if name == "set_device_memory"]) == 3, (
        "what is enough stays where it is"
    )


def test_scratch_memory_is_given_back_before_more_is_taken(world):
    scratch = Scratch(world.device)
    for nbytes in (600_000, 1_000_000, 800_000):
        scratch.reserve(nbytes)
    assert world.device.most == 1_000_000


def test_streamed_weights_get_a_budget_and_no_capture(world, backend, add):
    world.streamable = 1000
    engine = backend.load(add, ADD)
    names = world.names()
    budget, context = (
        names.index(f"ICudaEngine.{name}") for name in ("weight_streaming_budget_v2", "create_execution_context")
    )
    assert budget < context
    assert world.calls[budget][2] == (77,)
    engine.warmup({"x": (3, 2), "y": (1, 2)})
    assert world.device.replays == 0


@pytest.mark.parametrize(
    "wrong",
    [
        replace(ADD, inputs=ADD.inputs[:1]),
        replace(ADD, outputs=(*ADD.outputs, TensorSpec("more", (1,), "float32"))),
        replace(ADD, inputs=(ADD.inputs[0], TensorSpec("y", (1, 2), "float16"))),
        replace(ADD, inputs=(ADD.inputs[0], TensorSpec("y", (2, 2), "float32"))),
        replace(ADD, inputs=(ADD.inputs[0], TensorSpec("y", (1, 2, 1), "float32"))),
    ],
)
def test_an_engine_that_is_not_what_the_manifest_states_is_refused(backend, add, wrong):
    with pytest.raises(BundleIncompatibleError, match="--rebuild") as caught:
        backend.load(add, wrong)
    assert caught.value.log_code == "ENGINE_INTERFACE"


def test_an_engine_of_another_version_is_refused_with_what_tensorrt_says(backend, add):
    add.write_bytes(b"of another version")
    with pytest.raises(BundleIncompatibleError, match=r"cannot load add\.plan: another version wrote it; --rebuild it"):
        backend.load(add, ADD)


def test_other_sizes_than_it_was_compiled_for_are_refused(backend, add):
    engine = backend.load(add, ADD)
    with pytest.raises(ShapeError, match=r"compiled for x \[3, 2\], got \[2, 2\]"):
        engine.run({"x": rows(backend, [1, 1], [1, 1]), "y": rows(backend, [1, 1])})
    with pytest.raises(ShapeError, match="wanted inputs x, y"):
        engine.run({"x": rows(backend, [1, 1], [1, 1])})


def test_a_run_that_fails_and_one_after_closing_are_told(world, backend, add, monkeypatch):
    engine = backend.load(add, ADD)
    inputs = {"x": rows(backend, [1, 1], [1, 1], [1, 1]), "y": rows(backend, [1, 1])}
    double = type(engine._context)
    for refused, code in (("execute_async_v3", "ENGINE_FAILED"), ("set_tensor_address", "ENGINE_BINDING")):
        with monkeypatch.context() as patch:
            patch.setattr(double, f"on_{refused}", lambda *_: False)
            with pytest.raises(EngineLostError) as caught:
                backend.load(add, ADD).run(inputs)
            assert caught.value.log_code == code
    engine.close()
    engine.close()
    with pytest.raises(InternalError, match="was closed"):
        engine.run(inputs)


def test_closing_gives_the_memory_back(world, backend, add):
    engine = backend.load(add, ADD)
    engine.warmup({"x": (3, 2), "y": (1, 2)})
    engine.close()
    del engine
    assert list(world.device.blocks.values()) == [4096], "the shared scratch memory stays"


class Pycuda:
    """The interface of pycuda's GPUArray: on the default stream, without its name."""

    def __init__(self, device, values, strides=None, stream=None):
        values = np.asarray(values, np.float32)
        self.memory = device.allocate(values.nbytes)
        device.write(self.memory.address, values)
        self.__cuda_array_interface__ = {
            "shape": values.shape, "strides": strides, "data": (self.memory.address, False), "typestr": "<f4",
            "stream": stream, "version": 3,
        }  # fmt: skip


def test_arrays_of_other_libraries_are_taken_without_a_copy_and_ours_are_theirs(world, backend, count):
    """pycuda does not install without CUDA's toolkit; this is its array's structure."""
    engine = backend.load(count, COUNT)
    theirs = Pycuda(world.device, [5, 7])
    outputs = engine.run({"total": theirs})
    bound = [arguments for _, name, arguments in world.calls if name == "set_tensor_address"]
    assert ("total", theirs.memory.address) in bound
    facts = outputs["next"].__cuda_array_interface__
    assert (facts["shape"], facts["typestr"], facts["version"], facts["stream"]) == (
        (2,),
        "<f4",
        3,
        world.device.stream,
    )
    np.testing.assert_array_equal(world.device.array(facts["data"][0], facts["shape"], facts["typestr"]), [6, 8])
    assert world.device.followed == []


def test_an_array_that_is_read_where_it_lies_is_kept_until_the_next_run(world, backend, count):
    engine = backend.load(count, COUNT)
    theirs = Pycuda(world.device, [5, 7])
    seen = weakref.ref(theirs)
    engine.run({"total": theirs})
    del theirs
    assert seen() is not None
    engine.run({"total": rows(backend, 1, 1)})
    assert seen() is None


def test_work_of_another_stream_is_waited_for(world, backend, count):
    backend.load(count, COUNT).run({"total": Pycuda(world.device, [5, 7], stream=7)})
    assert world.device.followed == [7]


def test_arrays_that_cannot_be_taken_say_why(world, backend, count):
    engine = backend.load(count, COUNT)
    with pytest.raises(ShapeError, match=r"got strides \[8\]: copy it"):
        engine.run({"total": Pycuda(world.device, [5, 7], strides=(8,))})
    assert viewed(world.device, Pycuda(world.device, [[5], [7]], strides=(4, 12345))).shape == (2, 1)
    with pytest.raises(ShapeError, match="got ndarray: upload it"):
        engine.run({"total": np.zeros(2, np.float32)})


def test_parts_of_an_array_are_views_where_they_are_contiguous(world, backend):
    values = np.arange(24, dtype=np.float32).reshape(1, 4, 3, 2)
    whole = backend.upload(values)
    np.testing.assert_array_equal(backend.download(whole[:, 1:3]), values[:, 1:3])
    np.testing.assert_array_equal(backend.download(whole[:, 2:3, 1:2]), values[:, 2:3, 1:2])
    np.testing.assert_array_equal(backend.download(whole[0:1]), values)
    np.testing.assert_array_equal(backend.download(whole[:, 3:9]), values[:, 3:])
    part = whole[:, 1:3]
    del whole
    np.testing.assert_array_equal(backend.download(part), values[:, 1:3])
    whole = backend.upload(values)
    for key in ((slice(None), slice(0, 2), slice(0, 1)), (slice(None), slice(0, 4, 2))):
        with pytest.raises(InternalError):
            whole[key]


def test_another_shape_is_the_same_memory(world, backend):
    whole = backend.upload(np.arange(24, dtype=np.float32).reshape(4, 6))
    made = whole.reshape(2, -1)
    assert (made.shape, made.address) == ((2, 12), whole.address)
    assert made.owner is whole, "which keeps the memory"
    for shape in ((5, -1), (4, 5), (48,)):
        with pytest.raises(InternalError, match="wanted"):
            whole.reshape(*shape)


def test_uploads_are_copies_and_concatenation_is_along_the_first_axis(world, backend):
    one, two = rows(backend, [1, 2]), rows(backend, [3, 4], [5, 6])
    np.testing.assert_array_equal(backend.download(backend.concatenate([one, two])), [[1, 2], [3, 4], [5, 6]])
    copy = backend.upload(one)
    backend.device.write(one.address, np.zeros((1, 2), np.float32))
    np.testing.assert_array_equal(backend.download(copy), [[1, 2]])
    assert backend.download(backend.upload(np.float32(3))).shape == ()
    np.testing.assert_array_equal(
        backend.download(backend.upload(np.arange(6.0).reshape(2, 3).T)), np.arange(6.0).reshape(2, 3).T
    )
    assert backend.finite(one)
    assert not backend.finite(rows(backend, [np.inf, 0]))


@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_a_sampler_row_is_done_where_the_arrays_lie(world, backend, guidance):
    rng = np.random.default_rng(0)
    for step in build_sampler(SamplerSpec("dpmpp_2m", 4, guidance)).steps:
        x, h = (rng.standard_normal((1, 3, 4), np.float32) for _ in "xh")
        v = rng.standard_normal((1 + (guidance != 1.0), 3, 4), np.float32)
        there = [backend.upload(array) for array in (x, v, h)]
        backend.affine_step(step, *there, None)
        advance(step, x, v, h, None)
        np.testing.assert_array_equal(backend.download(there[0]), x)
        np.testing.assert_array_equal(backend.download(there[2]), h)


def test_a_bridge_leaves_the_noise_as_it_is(world, backend):
    rng = np.random.default_rng(0)
    latents, noise = rng.standard_normal((1, 2, 3, 4, 6), np.float32), rng.standard_normal((1, 2, 3, 8, 12), np.float32)
    xi, scale, shift = backend.upload(noise), np.float32([1, 2, 3]), np.float32([0.5])
    made = backend.bridge(backend.upload(latents), scale, shift, xi, 0.8, 0.6)
    np.testing.assert_array_equal(backend.download(made), resample.bridge(latents, scale, shift, noise, 0.8, 0.6))
    np.testing.assert_array_equal(backend.download(xi), noise)
    with pytest.raises(ShapeError, match="in a kernel, got uint8"):
        backend.bridge(backend.upload(latents.astype(np.uint8)), scale, shift, xi, 0.8, 0.6)


def test_bfloat16_which_numpy_lacks_is_rounded_kept_and_shown(world, backend):
    values = np.array([1.0, 1.00390625, 1.01171875, -3.14159265, 1e-40, np.inf, 65504.0], np.float32)
    rounded = backend.upload(values).bfloat16()
    assert (rounded.dtype, rounded.nbytes) == ("bfloat16", 14)
    torch = pytest.importorskip("torch", reason="the export extra is not installed")
    np.testing.assert_array_equal(backend.download(rounded), torch.from_numpy(values).bfloat16().float().numpy())
    TensorSpec("cache", (7,), "bfloat16").check(rounded)
    assert rounded.__cuda_array_interface__["typestr"] == "<u2"
    assert backend.concatenate([rounded, rounded]).shape == (14,)
