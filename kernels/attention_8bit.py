"""Attention whose scores come from 8-bit numbers, one scale per block of 128 tokens (SageAttention).

Queries and smoothed keys are what `qk_norm_rope` gives with a ``centre``: integers beside values in 16 bits, or all three
float8_e4m3fn (`qk_norm_rope_fp8`). The softmax is float32. The result's error is bounded, not zero: the tests state it.
"""

import torch
from torch import Tensor

from .attention import capability
from .attention_form import LOG2_E
from .language import ceil_div, jit, tl
from .launch import Launch, compiled, named
from .operator import operator, wide_dtype
from .qk_norm_rope import QUANT_BLOCK
from .variant import FP8_ARCHITECTURES, Variant


@jit
def attention_8bit_kernel(
    query_ptr, key_ptr, query_scale_ptr, key_scale_ptr, value_ptr, value_scale_ptr, output_ptr,
    heads, length, scale_log2, value_b, value_h, value_s, value_d,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, QUANT: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(1)
    batch, head = (plane // heads).to(tl.int64), (plane % heads).to(tl.int64)
    row, lane, column = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, D), tl.arange(0, BLOCK_N)
    rows = (row < length)[:, None]
    blocks = (length + QUANT - 1) // QUANT
    start = plane.to(tl.int64) * length * D
    key_ptr += start + lane[:, None] + column[None, :] * D
    value_ptr += batch * value_b + head * value_h + column[:, None] * value_s + lane[None, :] * value_d
    query = tl.load(query_ptr + start + row[:, None] * D + lane[None, :], rows, other=0.0)
    query_unit = tl.load(query_scale_ptr + plane * blocks + tl.program_id(0) * BLOCK_M // QUANT) * scale_log2
    key_scale_ptr += plane * blocks
    value_scale_ptr += plane * blocks
    largest_scale = 1.0
    if FP8:
        largest_scale = 0.0
        block = tl.arange(0, 128)
        for at in range(0, blocks, 128):
            scales = tl.load(value_scale_ptr + at + block, at + block < blocks, other=0.0)
            largest_scale = tl.maximum(largest_scale, tl.max(scales))
    largest = tl.full((BLOCK_M,), -1e30, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    mixed = tl.zeros((BLOCK_M, D), tl.float32)
    whole = length // BLOCK_N * BLOCK_N
    for at in range(0, whole, BLOCK_N):
        unit = query_unit * tl.load(key_scale_ptr + at // QUANT)
        rise = exponent_of(value_scale_ptr + at // QUANT, largest_scale, FP8)
        largest, total, mixed = attend_8bit(
            query, key_ptr, value_ptr, column, length, largest, total, mixed, unit, rise, FP8, False
        )
        key_ptr += BLOCK_N * D
        value_ptr += BLOCK_N * value_s
    if whole < length:
        unit = query_unit * tl.load(key_scale_ptr + whole // QUANT)
        rise = exponent_of(value_scale_ptr + whole // QUANT, largest_scale, FP8)
        largest, total, mixed = attend_8bit(
            query, key_ptr, value_ptr, column + whole, length, largest, total, mixed, unit, rise, FP8, True
        )
    mixed = mixed * (largest_scale / 256.0 / total if FP8 else 1.0 / total)[:, None]
    target = (batch * length + row)[:, None] * (heads * D) + head * D + lane[None, :]
    tl.store(output_ptr + target, mixed.to(output_ptr.dtype.element_ty), rows)


@jit
def exponent_of(value_scale_ptr, largest_scale, FP8: tl.constexpr):
    """What is added to the exponent of a block's weights: its values' scale, and the 256 that keeps small weights' bits."""
    rise = 0.0
    if FP8:
        rise = 8.0 + tl.log2(tl.load(value_scale_ptr) / largest_scale)
    return rise


@jit
def attend_8bit(
    query, key_ptr, value_ptr, column, keys, largest, total, mixed, unit, rise, FP8: tl.constexpr, TAIL: tl.constexpr
):
    """One block of keys and values; of the ``TAIL`` those before ``keys``."""
    inside = column < keys
    key = tl.load(key_ptr, inside[None, :], other=0.0) if TAIL else tl.load(key_ptr)
    scores = tl.dot(query, key) if FP8 else tl.dot(query, key, out_dtype=tl.int32).to(tl.float32)
    if TAIL:
        scores = tl.where(inside[None, :], scores, -float("inf"))
    following = tl.maximum(largest, tl.max(scores, 1) * unit)
    weights = tl.exp2(scores * unit - (following - rise)[:, None])
    fade = tl.exp2(largest - following)
    value = tl.load(value_ptr, inside[:, None], other=0.0) if TAIL else tl.load(value_ptr)
    if FP8:
        # A fresh sum for every block: Hopper's FP8 units keep 14 bits of theirs, too few for thousands of keys.
        total = total * fade + tl.sum(weights, 1) * tl.exp2(-rise)
        return following, total, mixed * fade[:, None] + tl.dot(weights.to(value.dtype), value)
    total = total * fade + tl.sum(weights, 1)
    return following, total, tl.dot(weights.to(value.dtype), value, mixed * fade[:, None])


def plain_attention_8bit(
    query: Tensor, query_scale: Tensor, key: Tensor, key_scale: Tensor, value: Tensor, value_scale: Tensor | None,
    scale: float,
) -> Tensor:  # fmt: skip
    """Return B S H D in the dtype of ``value`` (B H S D); the twin of `compiled_attention_8bit`.

    ``query`` and ``key`` are int8 B H S D with float32 scales B H blocks, as `qk_norm_rope` gives them. With a
    ``value_scale`` all are what `qk_norm_rope_fp8` gives, and the result is bfloat16.
    """
    wide, dtype = wide_dtype(value.dtype), value.dtype if value_scale is None else torch.bfloat16
    values = value.to(wide)
    if value_scale is not None:
        values = (values * value_scale.repeat_interleave(QUANT_BLOCK, 2)[:, :, None]).transpose(2, 3)
    queries, keys = (
        tensor.to(wide) * units.to(wide).repeat_interleave(QUANT_BLOCK, 2)[:, :, : tensor.shape[2], None]
        for tensor, units in ((query, query_scale), (key, key_scale))
    )
    values = values[:, :, : keys.shape[2]]
    mixed = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, scale=scale)
    return mixed.transpose(1, 2).contiguous().to(dtype)


def launch_attention_8bit(
    query: Tensor, query_scale: Tensor, key: Tensor, key_scale: Tensor, value: Tensor, value_scale: Tensor | None,
    scale: float,
) -> tuple[Launch, Tensor]:  # fmt: skip
    """Return the launch and what it writes."""
    query, query_scale, key, key_scale = (tensor.contiguous() for tensor in (query, query_scale, key, key_scale))
    batch, heads, length, width = query.shape
    fp8 = value_scale is not None
    output = value.new_empty((batch, length, heads, width), dtype=torch.bfloat16 if fp8 else value.dtype)
    by_token = value.transpose(2, 3) if fp8 else value
    tensors = query, key, query_scale, key_scale, by_token, value_scale if fp8 else query_scale, output
    arguments = named(attention_8bit_kernel, *tensors, heads, length, scale * LOG2_E, *by_token.stride())
    block_n, warps, stages = tile(capability(query), width, fp8)
    constants = {"D": width, "BLOCK_M": QUANT_BLOCK, "BLOCK_N": block_n, "QUANT": QUANT_BLOCK, "FP8": fp8}
    grid = ceil_div(length, QUANT_BLOCK), batch * heads
    return Launch(attention_8bit_kernel, grid, arguments, constants, warps, stages), output


compiled_attention_8bit = compiled(launch_attention_8bit)
attention_8bit = operator(plain_attention_8bit, compiled_attention_8bit)


def tile(architecture: int, width: int, fp8: bool) -> tuple[int, int, int]:
    """Return columns, warps and stages of a block; its rows are those that share a scale."""
    if architecture in (90, 100):
        return 64, 8, 3  # at width 64 1.2 to 1.3 times the rate of 128 columns on an H200
    if width == 64:
        return 64, 8 if architecture == 120 and fp8 else 4, 3
    return 64, 8, 2


def _variant(width: int, fp8: bool, architecture: int) -> Variant:
    scores = "*fp8e4nv" if fp8 else "*i8"
    signature = {
        "query_ptr": scores, "key_ptr": scores, "query_scale_ptr": "*fp32", "key_scale_ptr": "*fp32",
        "value_ptr": "*fp8e4nv" if fp8 else "*bf16", "value_scale_ptr": "*fp32", "output_ptr": "*bf16",
        "heads": "i32", "length": "i32", "scale_log2": "fp32",
        "value_b": "i32", "value_h": "i32", "value_s": "i32", "value_d": "i32",
    }  # fmt: skip
    block_n, warps, stages = tile(architecture, width, fp8)
    constants = {"D": width, "BLOCK_M": QUANT_BLOCK, "BLOCK_N": block_n, "QUANT": QUANT_BLOCK, "FP8": fp8}
    # The stride along the contiguous axis is 1: tokens' for FP8 values, channels' otherwise.
    unit = "value_s" if fp8 else "value_d"
    constants[unit] = 1
    del signature[unit]
    divisible = tuple(name for name in ("value_b", "value_h", "value_s", "value_d") if name != unit)
    name = f"attention_{'fp8' if fp8 else '8bit'}_d{width}"
    return Variant(name, attention_8bit_kernel, signature, constants, warps, stages, divisible, matrix=True)


def variants(architecture: int) -> tuple[Variant, ...]:
    """Return the forms to compile: head width, and integer scores beside 16-bit values, or FP8 throughout."""
    kinds = (False, True) if architecture in FP8_ARCHITECTURES else (False,)
    return tuple(_variant(width, fp8, architecture) for width in (64, 128) for fp8 in kinds)
