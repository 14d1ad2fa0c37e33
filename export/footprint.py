"""Counts how much memory an exported graph takes: its weights, and the most that is alive at once while it runs."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import onnx
from onnx import helper, shape_inference

from dvgwm.runtime.backends.backend import EngineSpec, Footprint
from dvgwm.runtime.bundle.manifest import Manifest, StageSpec
from dvgwm.runtime.stages import batch_sizes

_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten")
"""Operators that give their first input another shape and copy nothing."""


def footprint(path: Path, sizes: Mapping[str, int]) -> Footprint:
    """Return the footprint of the graph at ``path``, whose open sizes are ``sizes``, by name; no weight is read."""
    model = onnx.load(path, load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = sizes[dim.dim_param]
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    stored = {tensor.name: _bytes(tensor.dims, tensor.data_type) for tensor in graph.initializer}
    values = {value.name: _value_bytes(value) for value in (*graph.value_info, *graph.input, *graph.output)} | stored
    constant = set(stored)
    for node in graph.node:  # what is made of constants alone is made once, when the engine is loaded
        if node.op_type != "DequantizeLinear" and all(not name or name in constant for name in node.input):
            constant.update(node.output)
    nodes = [node for node in graph.node if node.output[0] not in constant]
    read = {name for node in nodes for name in node.input if name in constant}
    outputs = [output.name for output in graph.output]
    inputs = [value.name for value in graph.input]
    shapes = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input, *graph.output)}
    scores = {node.output[0]: _scores_bytes(node, shapes) for node in nodes if node.op_type == "Attention"}
    return Footprint(
        weights_bytes=sum(values.get(name, 0) for name in read),
        cast_bytes=sum(size for name, size in stored.items() if name not in read),
        working_bytes=_most_alive(nodes, values, inputs, outputs, {}),
        unfused_bytes=_most_alive(nodes, values, inputs, outputs, scores),
    )


def with_footprints(manifest: Manifest, files: Mapping[str, Path]) -> Manifest:
    """Return ``manifest`` with the footprint of every ONNX engine, of which the files are here by name, in a plan's sizes."""

    def counted(stage: StageSpec, spec: EngineSpec) -> EngineSpec:
        return replace(spec, footprint=footprint(files[spec.file], batch_sizes(stage)))

    stages = (
        replace(stage, engines={role: counted(stage, spec) for role, spec in stage.engines.items()})
        for stage in manifest.pipeline
    )
    return replace(manifest, pipeline=tuple(stages)) if manifest.backend == "onnx" else manifest


def _most_alive(
    nodes: Iterable[onnx.NodeProto],
    values: Mapping[str, int],
    inputs: Iterable[str],
    outputs: Iterable[str],
    scores: Mapping[str, int],
) -> int:
    """Return the most bytes that are alive at once when ``nodes`` run in their order; ``scores`` are alive with theirs."""
    order = list(nodes)
    source = {node.output[0]: node.input[0] for node in order if node.op_type in _VIEWS}

    def buffer(name: str) -> str:
        while name in source:
            name = source[name]
        return name

    last = {buffer(name): index for index, node in enumerate(order) for name in (*node.input, *node.output)}
    kept = {buffer(name) for name in (*inputs, *outputs)}
    alive = {name: values.get(name, 0) for name in inputs}
    most = sum(alive.values())
    for index, node in enumerate(order):
        alive |= {name: values.get(name, 0) for name in node.output if buffer(name) == name}
        most = max(most, sum(alive.values()) + scores.get(node.output[0], 0))
        for name in {buffer(name) for name in (*node.input, *node.output)}:
            if last[name] == index and name not in kept:
                alive.pop(name, None)
    return most


def _scores_bytes(node: onnx.NodeProto, shapes: Mapping[str, onnx.TypeProto.Tensor]) -> int:
    """Return the float32 scores of every query for every key, B H Nq Nk."""
    (batch, heads, queries, _), (_, _, keys, _) = (
        [dim.dim_value for dim in shapes[name].shape.dim] for name in node.input[:2]
    )
    return batch * heads * queries * keys * 4


def _value_bytes(value: onnx.ValueInfoProto) -> int:
    kind = value.type.tensor_type
    return _bytes([dim.dim_value for dim in kind.shape.dim], kind.elem_type)


def _bytes(dims: Iterable[int], kind: int) -> int:
    return prod(dims) * helper.tensor_dtype_to_np_dtype(kind).itemsize
