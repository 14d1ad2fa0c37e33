"""How much memory a graph takes, counted: by hand on a small one, and on what ships."""

import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("torch", reason="the export extra is not installed")

from onnx import TensorProto, helper

from dvgwm.export.footprint import footprint, with_footprints
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.config.plugins import shipped

pytestmark = pytest.mark.torch


def written(path, nodes, inputs, outputs, weights):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [value(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10).SerializeToString()
    )
    return path


def test_weights_are_counted_as_they_are_computed_with_and_what_lives_while_it_lives(tmp_path):
    nodes = [
        helper.make_node("Cast", ["half"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("ReduceSum", ["c", "axes"], ["y"], keepdims=0),
    ]
    weights = {"half": np.zeros((10, 100), np.float16), "shape": np.array([100, -1]), "axes": np.array([0])}
    path = written(tmp_path / "g.onnx", nodes, {"x": ["branches", 10]}, {"y": ["branches"]}, weights)
    made = footprint(path, {"branches": 4})
    assert made.weights_bytes == 10 * 100 * 4 + 2 * 8 + 1 * 8
    assert made.cast_bytes == 10 * 100 * 2
    # x and y stay; a and its view b are one; c is made while they are alive.
    assert made.working_bytes == 4 * 10 * 4 + 2 * 4 * 100 * 4
    assert made.unfused_bytes == made.working_bytes
    assert footprint(path, {"branches": 1}).working_bytes == 10 * 4 + 2 * 100 * 4


def test_what_is_no_longer_read_makes_room(tmp_path):
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in zip("xabcd", "abcdy", strict=True)]
    path = written(tmp_path / "g.onnx", nodes, {"x": [1000]}, {"y": [1000]}, {})
    assert footprint(path, {}).working_bytes == 4 * 1000 * 3
    nodes.append(helper.make_node("Add", ["a", "y"], ["z"]))
    path = written(tmp_path / "h.onnx", nodes, {"x": [1000]}, {"z": [1000]}, {})
    assert footprint(path, {}).working_bytes == 4 * 1000 * 4, "the first lives until the last reads it"


def test_the_scores_of_attention_are_there_only_where_a_library_writes_them_out(tmp_path):
    shape = [2, 3, 50, 8]
    nodes = [helper.make_node("Attention", ["q", "k", "v"], ["y"])]
    keys = [2, 3, 70, 8]
    path = written(tmp_path / "g.onnx", nodes, {"q": shape, "k": keys, "v": keys}, {"y": shape}, {})
    made = footprint(path, {})
    assert made.working_bytes == 4 * 2 * 3 * 8 * (50 + 70 + 70 + 50)
    assert made.unfused_bytes - made.working_bytes == 4 * 2 * 3 * 50 * 70


def test_8_bit_weights_are_read_where_they_are_needed(tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "scale"], ["w"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    weights = {"w8": np.zeros((10, 20), np.int8), "scale": np.ones(20, np.float32)}
    made = footprint(written(tmp_path / "g.onnx", nodes, {"x": [1, 10]}, {"y": [1, 20]}, weights), {})
    assert made.weights_bytes == 10 * 20 + 20 * 4
    assert made.cast_bytes == 0
    assert made.working_bytes == 4 * (10 + 20 + 10 * 20)


def test_the_shipped_bundle_says_what_its_graphs_are_counted_to_take():
    bundle = read_bundle(shipped("a1_tiny"))
    counted = with_footprints(bundle.manifest, {name: bundle.path / name for name in bundle.manifest.files})
    assert counted == bundle.manifest
    numbers = json.loads((bundle.path / "manifest.json").read_text())["pipeline"]
    preview = next(stage for stage in numbers if stage["name"] == "preview")["engines"]["denoise"]["footprint"]
    assert preview["weights_bytes"] > preview["cast_bytes"] > 0.45 * preview["weights_bytes"]
