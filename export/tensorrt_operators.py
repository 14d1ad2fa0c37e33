"""The operators of TensorRT's ONNX parser, their types and restrictions, by the published list; and a graph held against it.

The list is onnx-tensorrt's docs/operators.md for TensorRT 10.15, the newest at hand; 11 adds to it. If the parser of TensorRT
for RTX says otherwise, it is believed: it runs on a CPU, and a test holds the list against it. Passing the list proves no
engine; a builder does.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, shape_inference

LIST = "TensorRT 10.15"
OPSETS = range(9, 25)
_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16")
_NUMBERS = (*_FLOATS, "INT32", "INT64")
_ANY = (*_NUMBERS, "BOOL")
_TYPES: Mapping[tuple[str, ...], str] = {
    _FLOATS: """
        Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Conv ConvTranspose Cos Cosh CumSum Dropout
        Einsum Elu Erf Exp Floor GRU Gemm GlobalAveragePool GlobalMaxPool GroupNormalization HardSigmoid Hardmax
        InstanceNormalization IsInf LRN LSTM LayerNormalization LeakyRelu Log LogSoftmax LpPool MatMul MaxPool
        MeanVarianceNormalization PRelu QuantizeLinear RMSNormalization RNN RandomNormal RandomUniform Reciprocal ReduceL2
        ReduceLogSum ReduceLogSumExp Resize RotaryEmbedding Round Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt
        Tan Tanh ThresholdedRelu Upsample
    """,
    _NUMBERS: """
        Abs Add ArgMax ArgMin Clip DepthToSpace Div Greater GreaterOrEqual IsNaN Less LessOrEqual Mean Mod Mul Neg Pad Pow
        Range ReduceL1 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Scatter ScatterElements ScatterND
        Shrink Sign SpaceToDepth Sub Sum TopK
    """,
    _ANY: """
        Concat Expand EyeLike Flatten Gather GatherElements GatherND If Loop OneHot Reshape ReverseSequence Size Slice Split
        Squeeze Tile Transpose Trilu Unsqueeze Where
    """,
    ("FLOAT", "FLOAT16"): """
        BlackmanWindow DeformConv GlobalLpPool GridSample HammingWindow HannWindow HardSwish LpNormalization Mish
        NonMaxSuppression NonZero RandomNormalLike RandomUniformLike RoiAlign
    """,
    ("FLOAT",): "STFT",
    ("BOOL",): "And Not Or Xor",
    (*_FLOATS, "INT8", "FLOAT8E4M3FN"): "Attention",
    (*_FLOATS, "INT8", "INT32", "INT64"): "Gelu",
    (*_ANY, "UINT8"): "Cast CastLike Equal Identity Shape",
    (*_NUMBERS, "UINT8"): "Max Min",
    (*_FLOATS, "INT64"): "Relu",
    (*_ANY, "FLOAT8E4M3FN", "FLOAT4E2M1", "INT4", "INT8"): "Constant ConstantOfShape",
    ("INT8", "FLOAT8E4M3FN", "FLOAT4E2M1", "INT4"): "DequantizeLinear",
    (*_FLOATS, "INT32"): "TensorScatter",
}
SUPPORTED = {name: types for types, names in _TYPES.items() for name in names.split()}
"""The element types that each operator on the list takes."""


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """The facts for a restriction: the elements' type and the rank of every value, and the names of constants."""

    types: Mapping[str, str]
    ranks: Mapping[str, int]
    constants: frozenset[str]


def unsupported(path: Path) -> list[str]:
    """Return the operators in the graph at ``path`` outside TensorRT's list: one line for each operator and reason."""
    model = shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
    found = [
        f"opset {entry.version} of {entry.domain or 'ai.onnx'}"
        for entry in model.opset_import
        if entry.domain not in ("", "ai.onnx") or entry.version not in OPSETS
    ]
    graph = _facts(model.graph)
    counts: dict[str, int] = {}
    for node in model.graph.node:
        for reason in _reasons(node, graph):
            counts[f"{node.op_type}: {reason}"] = counts.get(f"{node.op_type}: {reason}", 0) + 1
    return found + [f"{reason} ({count} times)" for reason, count in sorted(counts.items())]


def _facts(graph: onnx.GraphProto) -> GraphFacts:
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: _name(value.type.tensor_type.elem_type) for value in values}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }
    for tensor in graph.initializer:
        types[tensor.name], ranks[tensor.name] = _name(tensor.data_type), len(tensor.dims)
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" or (node.input and all(name in constants for name in node.input if name)):
            constants.update(node.output)
    return GraphFacts(types, ranks, frozenset(constants))


def _name(kind: int) -> str:
    return TensorProto.DataType.Name(kind)


def _reasons(node: onnx.NodeProto, graph: GraphFacts) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        yield f"a custom operator of {node.domain}"
    elif node.op_type not in SUPPORTED:
        yield "is not on the list"
    else:
        kind = graph.types.get(node.input[_LOOKED_AT.get(node.op_type, 0)] if node.input else node.output[0], "")
        if kind and kind not in SUPPORTED[node.op_type]:
            yield f"takes no {kind}"
        if restriction := _RESTRICTIONS.get(node.op_type):
            yield from restriction(node, graph)


_LOOKED_AT = {"Where": 1, "OneHot": 2}
"""Which input's type is meant, where it is not the first."""


def _attention(node: onnx.NodeProto, graph: GraphFacts) -> Iterator[str]:
    if any(graph.ranks.get(name) != 4 for name in node.input[:4] if name):
        yield "wants queries, keys, values and mask of four dimensions"
    if len(node.input) > 4 or len(node.output) > 1:
        yield "takes no cache, and gives no scores"
    if _attribute(node, "softcap", 0.0) or _attribute(node, "qk_matmul_output_mode", 0):
        yield "takes no softcap and no output of scores"


def _zero_point(node: onnx.NodeProto, graph: GraphFacts) -> Iterator[str]:
    if len(node.input) > 2 and node.input[2] not in graph.constants:
        yield "wants a zero point that is a constant, and zero"


def _axes(node: onnx.NodeProto, graph: GraphFacts) -> Iterator[str]:
    if len(node.input) > 1 and node.input[1] and node.input[1] not in graph.constants:
        yield "wants axes that are constants"


def _resize(node: onnx.NodeProto, graph: GraphFacts) -> Iterator[str]:
    modes = {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
    if _attribute(node, "coordinate_transformation_mode", b"half_pixel").decode() not in modes:
        yield "takes other coordinate transformations only"
    if _attribute(node, "mode", b"nearest").decode() not in ("nearest", "linear"):
        yield "takes nearest and linear only"
    if _attribute(node, "antialias", 0):
        yield "does no antialiasing"


def _one_output(node: onnx.NodeProto, graph: GraphFacts) -> Iterator[str]:
    if len([name for name in node.output if name]) > 1:
        yield "gives its first output only"


def _scatter(node: onnx.NodeProto, graph: GraphFacts) -> Iterator[str]:
    if _attribute(node, "reduction", b"none") != b"none":
        yield "does no reduction"


_RESTRICTIONS: Mapping[str, Callable[[onnx.NodeProto, GraphFacts], Iterator[str]]] = {
    "Attention": _attention,
    "QuantizeLinear": _zero_point,
    "DequantizeLinear": _zero_point,
    "Squeeze": _axes,
    "Unsqueeze": _axes,
    **{name: _axes for name in SUPPORTED if name.startswith("Reduce")},
    "Resize": _resize,
    "MaxPool": _one_output,
    "LayerNormalization": _one_output,
    "ScatterND": _scatter,
}


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)
