"""Finds the linear layers of a transformer's blocks in an exported graph."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from .shared_weights import Place

_BLOCK = re.compile(r"(?:transformer_)?blocks\.(\d+)\.(?:attn\d?|ff|ffn)\.")


@dataclass(frozen=True, slots=True)
class Linear:
    """A product of tokens with a weight: the graph's ``node``, the tensor that it has ``taken``, the weight and its ``block``.

    ``place`` is where the weight is, OUT IN; ``inner`` says that the block is neither the first nor the last.
    """

    node: str
    taken: str
    weight: str
    place: Place
    block: int
    inner: bool


def linear_layers(model: onnx.ModelProto, known: Mapping[str, Place]) -> tuple[Linear, ...]:
    """Return the attention's and the feed-forward's layers of every block, whose weights, by name, are ``known`` to be there.

    Modulation, embeddings and the last projection are none of them.
    """
    names = {(place.file, place.offset): name for name, place in known.items()}
    made = {output: node for node in model.graph.node for output in node.output}
    outside = {tensor.name: tensor for tensor in model.graph.initializer if tensor.external_data}
    found = []
    for node in model.graph.node:
        if node.op_type != "MatMul":
            continue
        source = node.input[1]
        while source in made and made[source].op_type in ("Cast", "Transpose"):
            source = made[source].input[0]
        if source not in outside:
            continue
        where = {entry.key: entry.value for entry in outside[source].external_data}
        name = names.get((where["location"], int(where["offset"])), "")
        if name and (block := block_of(name, known[name].shape)) is not None:
            found.append((node, name, block))
    last = max((block for *_, block in found), default=0)
    return tuple(
        Linear(node.output[0], node.input[0], name, known[name], block, 0 < block < last) for node, name, block in found
    )


def block_of(name: str, shape: tuple[int, ...]) -> int | None:
    """Return the block of a tensor that is the weight of such a layer, None for any other."""
    match = _BLOCK.match(name)
    return int(match[1]) if match and len(shape) == 2 else None


def inputs_of(layers: Iterable[Linear]) -> dict[str, list[Linear]]:
    """Return the layers that take the same tensor, by that tensor: queries, keys and values do."""
    groups: dict[str, list[Linear]] = {}
    for layer in layers:
        groups.setdefault(layer.taken, []).append(layer)
    return groups
