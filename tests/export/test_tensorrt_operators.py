"""What TensorRT's parser would refuse is told: operators, types and restrictions that graphs break, one at a time."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("torch", reason="the export extra is not installed")

from onnx import TensorProto, helper

from dvgwm.export.tensorrt_operators import _TYPES, SUPPORTED, unsupported
from dvgwm.runtime.config.plugins import shipped

pytestmark = pytest.mark.torch
F, H, B = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8


def written(path, nodes, inputs, outputs, weights=(), opset=23, domain=""):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [value(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in dict(weights).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def one(tmp_path, operator, inputs, outputs=None, weights=(), names=None, **attributes):
    """Return what is said of a graph of one operator."""
    outputs = outputs or {"y": (F, [1])}
    node = helper.make_node(operator, names or list(inputs), list(outputs), **attributes)
    return unsupported(written(tmp_path / "g.onnx", [node], inputs, outputs, weights))


def test_what_ships_would_be_taken():
    for path in sorted(shipped("a1_tiny").glob("*.onnx")):
        assert unsupported(path) == [], path.name


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "said"),
    [
        ("Relu", {"x": (F, [1])}, {}, []),
        ("Relu", {"x": (H, [1])}, {}, []),
        ("Relu", {"x": (TensorProto.DOUBLE, [1])}, {}, ["Relu: takes no DOUBLE (1 times)"]),
        ("Transpose", {"x": (B, [1, 2])}, {}, ["Transpose: takes no UINT8 (1 times)"]),
        ("Cast", {"x": (B, [1])}, {"to": F}, []),
        ("Mish", {"x": (TensorProto.BFLOAT16, [1])}, {}, ["Mish: takes no BFLOAT16 (1 times)"]),
        ("Det", {"x": (F, [2, 2])}, {}, ["Det: is not on the list (1 times)"]),
        (
            "Resize",
            {"x": (F, [1, 1, 2, 2]), "r": (F, []), "s": (F, [4])},
            {"mode": "cubic"},
            ["nearest and linear only"],
        ),
        (
            "Resize",
            {"x": (F, [1, 1, 2, 2]), "r": (F, []), "s": (F, [4])},
            {"mode": "linear", "antialias": 1},
            ["antialias"],
        ),
        ("Attention", {n: (F, [1, 2, 3, 4]) for n in "qkv"}, {}, []),
        ("Attention", {n: (F, [1, 3, 8]) for n in "qkv"}, {"q_num_heads": 2, "kv_num_heads": 2}, ["four dimensions"]),
        ("Attention", {n: (F, [1, 2, 3, 4]) for n in "qkv"}, {"softcap": 5.0}, ["softcap"]),
        ("Unsqueeze", {"x": (F, [1]), "axes": (TensorProto.INT64, [1])}, {}, ["axes that are constants"]),
        (
            "ScatterND",
            {"x": (F, [4]), "i": (TensorProto.INT64, [1, 1]), "u": (F, [1])},
            {"reduction": "add"},
            ["reduction"],
        ),
        ("Scatter9", {"x": (F, [4])}, {}, ["not on the list"]),
    ],
)
def test_each_thing_that_is_refused_is_said(tmp_path, operator, inputs, attributes, said):
    found = one(tmp_path, operator, inputs, **attributes)
    assert len(found) == len(said), found
    assert all(part in line for part, line in zip(said, found, strict=True))


def test_constants_made_of_constants_are_constants(tmp_path):
    nodes = [helper.make_node("Neg", ["a"], ["axes"]), helper.make_node("Unsqueeze", ["x", "axes"], ["y"])]
    path = written(tmp_path / "g.onnx", nodes, {"x": (F, [2])}, {"y": (F, [2, 1])}, {"a": np.array([1])})
    assert unsupported(path) == []


def test_other_opsets_and_other_peoples_operators_are_refused(tmp_path):
    node = helper.make_node("Relu", ["x"], ["y"])
    path = written(tmp_path / "g.onnx", [node], {"x": (F, [1])}, {"y": (F, [1])}, opset=26)
    assert unsupported(path) == ["opset 26 of ai.onnx"]
    node = helper.make_node("Swirl", ["x"], ["y"], domain="com.them")
    path = written(tmp_path / "h.onnx", [node, node], {"x": (F, [1])}, {"y": (F, [1])}, opset=1, domain="com.them")
    assert unsupported(path) == ["opset 1 of com.them", "Swirl: a custom operator of com.them (2 times)"]


def test_the_list_has_each_operator_once():
    assert len(SUPPORTED) == sum(len(names.split()) for names in _TYPES.values()), "none has two rows"
    assert all(onnx.defs.has(name) or name in ("Upsample", "Scatter") for name in SUPPORTED), [
        name for name in SUPPORTED if not onnx.defs.has(name)
    ]
