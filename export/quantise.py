"""Linear layers in 8 bits: weights rounded once, activations by ONNX's QuantizeLinear and DequantizeLinear."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnxscript import ir
from safetensors import safe_open
from torch import Tensor

from dvgwm.models.precision import GraphPrecision
from dvgwm.models.weights import save_tensors
from dvgwm.runtime.types import FloatArray

from .linear_layers import Linear, inputs_of
from .shared_weights import Place, places

SMOOTHING = 0.7
"""How much of the activations' unevenness over channels goes into the weights (SmoothQuant, arXiv 2211.10438, eq. 4)."""
SCALE = ".scale"


@dataclass(frozen=True, slots=True)
class EightBit:
    """Numbers of 8 bits: their largest, and what they are called in torch."""

    largest: float
    dtype: torch.dtype

    def rounded(self, scaled: Tensor) -> Tensor:
        """Return the numbers nearest to ``scaled``, the largest where they are beyond it."""
        within = scaled.clamp(-self.largest, self.largest)
        return (within.round() if self.dtype == torch.int8 else within).to(self.dtype)


EIGHT_BIT = {
    "int8": EightBit(127.0, torch.int8),
    "fp8": EightBit(448.0, torch.float8_e4m3fn),
}


def smoothing(
    layers: Sequence[Linear], files: Sequence[Path], ranges: Mapping[str, FloatArray], precision: GraphPrecision
) -> dict[str, FloatArray]:
    """Return what each input of inner ``layers`` is divided by, channel by channel, and their weights multiplied by.

    It is for int8, whose steps are even: a channel 50 times as large as the others leaves them two or three bits. E4M3 has the
    same relative step everywhere (measured on a1_tiny: no gain).
    """
    if precision.linear != "int8" or not precision.activations:
        return {}
    factors = {}
    for taken, group in inputs_of(layer for layer in layers if layer.inner).items():
        weight = np.max([_read(files, layer.weight).abs().amax(0).numpy() for layer in group], axis=0)
        factor = np.maximum(ranges[taken], 1e-5) ** SMOOTHING / np.maximum(weight, 1e-5) ** (1 - SMOOTHING)
        factors[taken] = np.asarray(factor / np.exp(np.log(factor).mean()), np.float32)
    return factors


def quantise_weights(
    path: Path, out: Path, layers: Sequence[Linear], factors: Mapping[str, FloatArray], precision: GraphPrecision
) -> None:
    """Write the safetensors file at ``path`` to ``out`` with the weights of ``layers`` in 8 bits, one scale for each output.

    They are written IN OUT, so that no engine has to turn them.
    """
    kind, found = EIGHT_BIT[precision.linear], {layer.weight: layer for layer in layers}
    state = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            tensor = file.get_tensor(name)
            if name not in found:
                state[name] = tensor
                continue
            layer, weight = found[name], tensor.float()
            if layer.taken in factors:
                weight = weight * torch.from_numpy(factors[layer.taken])
            scale = (weight.abs().amax(1) / kind.largest).clamp_min(1e-7).to(precision.dtype)
            state[name] = kind.rounded(weight / scale.float()[:, None]).T.contiguous()
            state[name + SCALE] = scale
    save_tensors(state, out)


def quantise_graph(
    model: ir.Model,
    before: Sequence[Path],
    files: Sequence[Path],
    layers: Sequence[Linear],
    factors: Mapping[str, FloatArray],
    ranges: Mapping[str, FloatArray],
    precision: GraphPrecision,
) -> None:
    """Let ``model`` read from the ``files`` that `quantise_weights` wrote what it read from ``before``, ``layers`` in 8 bits.

    With activations in 8 bits what inner layers take is rounded to the steps that its ``ranges`` ask for, for all channels one.
    """
    graph, now = model.graph, places(files)
    nodes = {node.outputs[0].name: node for node in graph}
    for layer in layers:
        product = nodes[layer.node]
        stored = [_outside(graph, name, now[name]) for name in (layer.weight, layer.weight + SCALE)]
        product.replace_input_with(1, _before(graph, product, "DequantizeLinear", stored, axis=1))
    if precision.activations:
        _quantise_activations(graph, nodes, layers, factors, ranges, precision)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    _move(graph, places(before), now)


def _quantise_activations(
    graph: ir.Graph,
    nodes: Mapping[str | None, ir.Node],
    layers: Sequence[Linear],
    factors: Mapping[str, FloatArray],
    ranges: Mapping[str, FloatArray],
    precision: GraphPrecision,
) -> None:
    kind, dtype = EIGHT_BIT[precision.linear], _numpy(precision.dtype)
    for taken, group in inputs_of(layer for layer in layers if layer.inner).items():
        first, tensor = nodes[group[0].node], nodes[group[0].node].inputs[0]
        if taken in factors:
            divisor = _constant(graph, f"{taken}.divisor", (1.0 / factors[taken]).astype(dtype))
            tensor = _before(graph, first, "Mul", [tensor, divisor])
        largest = max(float((ranges[taken] / factors.get(taken, 1.0)).max()), 1e-5)
        step = _constant(graph, f"{taken}.step", np.array(largest / kind.largest, dtype))
        zero = _constant(graph, f"{taken}.zero", torch.zeros((), dtype=kind.dtype))
        quantised = _before(graph, first, "QuantizeLinear", [tensor, step, zero])
        rounded = _before(graph, first, "DequantizeLinear", [quantised, step, zero])
        for layer in group:
            nodes[layer.node].replace_input_with(0, rounded)


def _move(graph: ir.Graph, before: Mapping[str, Place], now: Mapping[str, Place]) -> None:
    """Let every initializer be read from where its tensor is now."""
    names = {(place.file, place.offset): name for name, place in before.items()}
    for value in graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and (name := names.get((str(tensor.location), tensor.offset or 0))):
            value.const_value = _tensor(value.name or name, now[name])


def _before(graph: ir.Graph, node: ir.Node, operator: str, inputs: Sequence[ir.Value], **attributes: int) -> ir.Value:
    """Return what ``operator`` makes of the ``inputs``, just before the ``node``."""
    made = ir.node(operator, inputs, attributes)
    graph.insert_before(node, made)
    return made.outputs[0]


def _constant(graph: ir.Graph, name: str, numbers: NDArray[np.generic] | Tensor) -> ir.Value:
    tensor = ir.tensor(numbers, name=name)
    return _register(graph, name, tensor)


def _outside(graph: ir.Graph, name: str, place: Place) -> ir.Value:
    """Return an initializer that is read from its ``place``."""
    return _register(graph, name, _tensor(name, place))


def _tensor(name: str, place: Place) -> ir.ExternalTensor:
    kind, shape = ir.DataType(place.dtype), ir.Shape(place.shape)
    return ir.ExternalTensor(place.file, place.offset, place.length, kind, shape=shape, name=name)


def _register(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _read(files: Sequence[Path], name: str) -> Tensor:
    """Return a tensor of a network in float32, from the one of its ``files`` that has it."""
    return next(_found(files, name)).float()


def _found(files: Sequence[Path], name: str) -> Iterator[Tensor]:
    for path in files:
        with safe_open(path, "pt") as file:
            if name in file.keys():  # noqa: SIM118 (no mapping)
                yield file.get_tensor(name)


def _numpy(dtype: torch.dtype) -> np.dtype[np.generic]:
    return torch.empty(0, dtype=dtype).numpy().dtype
