"""The refusals of TensorRT's parser are told: operators, types and restrictions, one at a time."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("torch", reason="the export extra is not installed")

from onnx import TensorProto, helper

from dvgwm.export.tensorrt_operators import _TYPES, SUPPORTED, unsupported
from dvgwm.runtime.backends.tensorrt.build import new_logger
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
    """Return the words on a graph of one operator."""
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


PARTIAL = {
    "DeformConv": "a plugin of TensorRT's, and none of TensorRT for RTX",
    "Mod": "of floats with fmod alone",
    "Pad": "of paddings, which are one number for each axis",
    "RotaryEmbedding": "of caches with sizes of their own",
    "Slice": "of starts and axes of one length",
    "Tile": "of repeats, one for each axis",
}
"""Operators whose inputs are not four axes of four, and why."""


def graphs_of(operator, tmp_path):
    """Yield a valid graph of the operator, inputs of four axes, for each of our types allowed by ONNX, and the type."""
    schema = onnx.defs.get_schema(operator, 23)
    for kind in (F, H, TensorProto.BFLOAT16, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, B):
        told = f"tensor({TensorProto.DataType.Name(kind).lower()})"
        inputs = [schema.inputs[min(index, len(schema.inputs) - 1)] for index in range(schema.min_input)]
        if not 1 <= len(inputs) <= 3 or not all(told in parameter.types for parameter in inputs):
            continue
        types = schema.outputs[0].types
        given = {"tensor(bool)": TensorProto.BOOL, "tensor(int64)": TensorProto.INT64}
        result = given.get(next(iter(types)), kind) if len(types) == 1 else F if operator == "Cast" else kind
        attributes = {"Cast": {"to": F}, "Concat": {"axis": 0}}.get(operator, {})
        names = {name: (kind, [1, 4, 4, 4]) for name in "abc"[: len(inputs)]}
        node = helper.make_node(operator, list(names), ["y"], **attributes)
        path = written(tmp_path / "g.onnx", [node], names, {"y": (result, ["p", "q", "r", "s"])})
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
            continue  # it wants other sizes
        yield TensorProto.DataType.Name(kind), path


def test_the_list_is_that_of_the_real_parser(rtx_compiler, tmp_path):
    """Every operator on it with every type, as far as one shape of inputs goes, in TensorRT for RTX's own parser."""
    trt = rtx_compiler.trt
    logger = new_logger(trt)
    builder, asked, other = trt.Builder(logger), 0, []
    newer = {"Upsample", "Scatter", "TensorScatter"}  # or older than the opset
    known = [name for name in SUPPORTED if name not in {*PARTIAL, *newer} and onnx.defs.has(name)]
    for operator in known:
        for kind, path in graphs_of(operator, tmp_path):
            network = builder.create_network()  # which the parser does not keep
            taken = trt.OnnxParser(network, logger).parse_from_file(str(path))
            asked += 1
            if taken == bool(unsupported(path)):
                other.append(f"{operator} of {kind}: {'taken' if taken else 'refused'} by the parser")
    assert other == []
    assert asked > 350


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
