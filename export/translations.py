"""Operators of torch in other words than the exporter's own, if its words are slow in ONNX Runtime on a CPU.

The weights stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from onnxscript import opset18 as op

LARGEST = 20.0
"""Above it x tanh(softplus(x)) is x in float32, and below it nothing overflows."""
FEWEST_CHANNELS = 16
MOST_WEIGHTS = 1 << 18
"""Of a convolution that is written as one product: the engine holds a second copy of its weights, turned."""


def mish(x: Any) -> Any:
    """Return x tanh(softplus(x)) of float32 numbers by one exponential: x n / (n + 2), n = e (e + 2), e = exp(x).

    As `Mish` it is Softplus and Tanh and takes six times as long.
    """
    e = op.Exp(op.Min(x, op.Constant(value_float=LARGEST)))
    two = op.Constant(value_float=2.0)
    n = op.Mul(e, op.Add(e, two))
    return op.Mul(x, op.Div(n, op.Add(n, two)))


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Any:
    """Return the convolution of x (N C T), a small one as a single product over batch and time.

    `Conv` multiplies one sample at a time: 44 samples of 64 channels take twice as long.
    """
    channels, width = weight.shape[1], weight.shape[2]
    (pad,) = padding
    plain = (list(stride), list(dilation), groups) == ([1], [1], 1) and width == 2 * pad + 1 and width > 1
    if not plain or channels < FEWEST_CHANNELS or prod(weight.shape) > MOST_WEIGHTS:
        parts = (x, weight) if bias is None else (x, weight, bias)
        return op.Conv(*parts, strides=list(stride), pads=[pad, pad], dilations=list(dilation), group=groups)
    rows = op.Pad(op.Transpose(x, perm=[0, 2, 1]), _constant(0, pad, 0, 0, pad, 0))
    shifted = [op.Slice(rows, _constant(at), _constant(at - width + 1 or 1 << 62), _constant(1)) for at in range(width)]
    turned = op.Reshape(op.Transpose(weight, perm=[2, 1, 0]), _constant(width * channels, weight.shape[0]))
    made = op.MatMul(op.Concat(*shifted, axis=2), turned)
    return op.Transpose(made if bias is None else op.Add(made, bias), perm=[0, 2, 1])


def _constant(*numbers: int) -> Any:
    return op.Constant(value_ints=list(numbers))


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.mish.default: mish,
    torch.ops.aten.conv1d.default: conv1d,
}
"""For `torch.onnx.export`."""
