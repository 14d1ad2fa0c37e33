"""All that forms of attention have in common: arguments, their types, and the softmax, block of keys by block of keys."""

import math
from typing import Any

import torch
from torch import Tensor

from .language import jit, tl
from .launch import named

LOG2_E = math.log2(math.e)
TENSORS = ("query", "key", "value", "output")
WIDEST_BOUND = 40.0
"""The largest score for a fixed shift: weights lie e^80 apart then, and float32 and bfloat16 have e^-87 to 1."""
STRIDES = tuple(f"{tensor}_{axis}" for tensor in TENSORS for axis in ("b", "h", "s"))


@jit
def absorb(scores, value, largest, total, mixed, scale_log2, shift_log2, FIXED: tl.constexpr):
    """Return largest score, sum and mixed values after a block's ``scores`` and ``value`` (FlashAttention).

    ``log2(e) x scale`` is folded into one multiply-add before exp2. A softmax is the same for any shift: if it is ``FIXED``,
    no largest score is followed, and no earlier sum fades.
    """
    if FIXED:
        weights = tl.exp2(scores * scale_log2 - shift_log2)
        return largest, total + tl.sum(weights, 1), tl.dot(weights.to(value.dtype), value, mixed)
    following = tl.maximum(largest, tl.max(scores, 1) * scale_log2)
    weights = tl.exp2(scores * scale_log2 - following[:, None])
    fade = tl.exp2(largest - following)
    total = total * fade + tl.sum(weights, 1)
    return following, total, tl.dot(weights.to(value.dtype), value, mixed * fade[:, None])


def fixed_shift(bound: float | None, dtype: torch.dtype) -> float | None:
    """Return the shift for scores of at most ``bound``, None if weights in ``dtype`` want the largest score followed.

    They do so if nothing is known of the scores (None), if they may be too large, or for float16's few exponents.
    """
    return bound if bound is not None and bound <= WIDEST_BOUND and dtype != torch.float16 else None


def arguments_of(
    kernel: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, bound: float | None
) -> tuple[dict[str, Any], bool, Tensor]:
    """Return the arguments of ``kernel`` by name, whether its shift is fixed, and the result to be written, B S H D."""
    batch, heads, length, width = query.shape
    output = query.new_empty((batch, length, heads, width))
    query, key, value = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, key, value))
    tensors = query, key, value, output
    strides = [stride for tensor in (query, key, value, output.transpose(1, 2)) for stride in tensor.stride()[:3]]
    shift = fixed_shift(bound, query.dtype)
    numbers = heads, length, key.shape[2], scale * LOG2_E, (shift or 0.0) * LOG2_E
    return named(kernel, *tensors, *numbers, *strides), shift is not None, output


def signature_of(dtype: str) -> dict[str, str]:
    """Return the types of these arguments, as Triton calls them."""
    signature = {f"{tensor}_ptr": f"*{dtype}" for tensor in TENSORS}
    signature |= dict.fromkeys(("heads", "length", "keys"), "i32") | {"scale_log2": "fp32", "shift_log2": "fp32"}
    return signature | dict.fromkeys(STRIDES, "i32")
