"""Weights kept once: an ONNX graph reads them from its network's own safetensors files, which torch reads too."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto
from onnxscript import ir
from torch import nn

from dvgwm.models.hollow import slots

_DTYPES = {
    "BF16": TensorProto.BFLOAT16,
    "F16": TensorProto.FLOAT16,
    "F32": TensorProto.FLOAT,
    "F8_E4M3": TensorProto.FLOAT8E4M3FN,
    "I8": TensorProto.INT8,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is: a file beside the graph, which bytes of it, in what type and shape."""

    file: str
    offset: int
    length: int
    dtype: int
    shape: tuple[int, ...]


def places(files: Iterable[Path]) -> dict[str, Place]:
    """Return the place of every tensor, but for long integers, in a network's safetensors ``files``; headers are read only."""
    found = {}
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"] in _DTYPES:
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                shape = tuple(entry["shape"])
                found[name] = Place(path.name, begin, end - begin, _DTYPES[entry["dtype"]], shape)
    return found


def weights_of(
    module: nn.Module, parts: Mapping[str, nn.Module], stored: Mapping[str, Mapping[str, Place]]
) -> dict[str, Place]:
    """Return the places of those tensors of a graph's ``module`` that are a part's own, by their names in ``module``.

    ``stored`` has the places of every part's tensors.
    """
    known = {}
    for part, network in parts.items():
        state = network.state_dict(keep_vars=True)
        for name, slot in slots(network).items():
            if name in stored.get(part, {}):
                known[id(state[slot.names[0]])] = stored[part][name]
    tensors = module.state_dict(keep_vars=True)
    return {name: known[id(tensor)] for name, tensor in tensors.items() if id(tensor) in known}


@contextmanager
def referred(model: ir.Model, weights: Mapping[str, Place]) -> Iterator[None]:
    """Let ``model`` read its ``weights`` from where they are, cast where they are kept in half precision.

    An engine does that once, when it is loaded. Meanwhile they are unknown, so that no optimiser computes with them.
    """
    initializers = model.graph.initializers
    dtypes = {name: initializers[name].const_value.dtype for name in weights if name in initializers}
    for name in dtypes:
        initializers[name].const_value = None
    yield
    for name in [name for name in dtypes if name in initializers]:
        place, value = weights[name], initializers[name]
        kind, shape = ir.DataType(place.dtype), ir.Shape(place.shape)
        stored = ir.ExternalTensor(place.file, place.offset, place.length, kind, shape=shape, name=name)
        if kind == dtypes[name]:
            value.const_value = stored
            continue
        source = ir.Value(name=f"{name}.stored", shape=shape, type=ir.TensorType(kind), const_value=stored)
        cast = ir.node("Cast", [source], {"to": dtypes[name]})
        value.replace_all_uses_with(cast.outputs[0])
        del initializers[name]
        model.graph.register_initializer(source)
        model.graph.insert_before(model.graph[0], cast)
