"""Weights kept once: an ONNX graph reads them from its network's own safetensors file, which torch reads too."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

SMALLEST = 1024
"""Numbers from which a tensor is worth a reference; smaller ones stay in the graph."""

_DTYPES = {"F16": (np.float16, TensorProto.FLOAT16), "F32": (np.float32, TensorProto.FLOAT)}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is: a file beside the graph, which bytes of it, in what type and shape."""

    file: str
    offset: int
    length: int
    dtype: int
    shape: tuple[int, ...]


def places(files: Iterable[Path]) -> dict[bytes, Place]:
    """Return the place of every tensor in safetensors ``files`` by the digest of its numbers."""
    found = {}
    for path in files:
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:start]).items():
            if name == "__metadata__" or entry["dtype"] not in _DTYPES:
                continue
            kind, dtype = _DTYPES[entry["dtype"]]
            begin, end = (start + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[begin:end], kind).reshape(entry["shape"])
            found[_digest(values)] = Place(path.name, begin, end - begin, dtype, values.shape)
    return found


def refer(model: onnx.ModelProto, stored: Mapping[bytes, Place]) -> None:
    """Let ``model`` read its large weights from where they are ``stored``, cast and transposed as it has them.

    An engine does that once, when it is loaded. What is stored nowhere stays in the graph.
    """
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALLEST:
            continue
        place = stored.get(_digest(values))
        turned = place is None and values.ndim == 2
        if turned:
            place = stored.get(_digest(values.T))
        if place is None:
            continue
        name = tensor.name
        steps = [("Cast", {"to": TensorProto.FLOAT})] if place.dtype != TensorProto.FLOAT else []
        steps += [("Transpose", {"perm": [1, 0]})] if turned else []
        names = [f"{name}.stored", *(f"{name}.{step}" for step, _ in steps[:-1]), name] if steps else [name]
        casts += [
            helper.make_node(step, [source], [target], **attributes)
            for (step, attributes), source, target in zip(steps, names[:-1], names[1:], strict=True)
        ]
        tensor.Clear()
        tensor.name, tensor.data_type = names[0], place.dtype
        tensor.dims.extend(place.shape)
        tensor.raw_data = b""
        external_data_helper.set_external_data(tensor, place.file, place.offset, place.length)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _digest(values: np.ndarray) -> bytes:
    plain = np.ascontiguousarray(values, np.float32)
    return hashlib.sha256(repr(plain.shape).encode() + plain.tobytes()).digest()
