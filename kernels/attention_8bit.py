"""Attention whose scores come from 8-bit integers, one scale per block of 128 tokens (SageAttention).

Queries and smoothed keys are what `qk_norm_rope_8bit` gives. Values stay in 16 bits, or are FP8 where the target has it
(`quantise_values`); the softmax is float32. The result's error is bounded, not zero: the tests state it.
"""

from typing import Any

import torch
from torch import Tensor

from .attention import LOG2_E, capability
from .language import ceil_div, jit, tl
from .operator import inner, operator
from .qk_norm_rope import QUANT_BLOCK
from .variant import FP8_ARCHITECTURES, Variant

WEIGHT_LEVELS = 256.0
"""FP8 weights are multiplied by this power of two, so that small ones keep their bits."""


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
    query = tl.load(query_ptr + start + row[:, None] * D + lane[None, :], rows, other=0)
    turn = tl.load(query_scale_ptr + plane * blocks + tl.program_id(0) * BLOCK_M // QUANT) * scale_log2
    key_scale_ptr += plane * blocks
    largest = tl.full((BLOCK_M,), -1e30, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    mixed = tl.zeros((BLOCK_M, D), tl.float32)
    whole = length // BLOCK_N * BLOCK_N
    for at in range(0, whole, BLOCK_N):
        scores = tl.dot(query, tl.load(key_ptr), out_dtype=tl.int32).to(tl.float32)
        unit = turn * tl.load(key_scale_ptr + at // QUANT)
        following = tl.maximum(largest, tl.max(scores, 1) * unit)
        weights = tl.exp2(scores * unit - following[:, None])
        fade = tl.exp2(largest - following)
        total = total * fade + tl.sum(weights, 1)
        value = tl.load(value_ptr)
        if FP8:
            weights *= 256.0
        mixed = tl.dot(weights.to(value.dtype), value, mixed * fade[:, None])
        largest = following
        key_ptr += BLOCK_N * D
        value_ptr += BLOCK_N * value_s
    if whole < length:
        inside = whole + column < length
        scores = tl.dot(query, tl.load(key_ptr, inside[None, :], other=0), out_dtype=tl.int32).to(tl.float32)
        unit = turn * tl.load(key_scale_ptr + whole // QUANT)
        scores = tl.where(inside[None, :], scores * unit, -float("inf"))
        following = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - following[:, None])
        fade = tl.exp2(largest - following)
        total = total * fade + tl.sum(weights, 1)
        value = tl.load(value_ptr, inside[:, None], other=0.0)
        if FP8:
            weights *= 256.0
        mixed = tl.dot(weights.to(value.dtype), value, mixed * fade[:, None])
    mixed = mixed / total[:, None]
    if FP8:
        mixed = mixed * (tl.load(value_scale_ptr + plane * D + lane) / 256.0)[None, :]
    target = (batch * length + row)[:, None] * (heads * D) + head * D + lane[None, :]
    tl.store(output_ptr + target, mixed.to(output_ptr.dtype.element_ty), rows)


def plain_attention_8bit(
    query: Tensor, query_scale: Tensor, key: Tensor, key_scale: Tensor, value: Tensor, scale: float
) -> Tensor:
    """Return B S H D in the dtype of ``value`` (B H S D); the twin of `compiled_attention_8bit`.

    ``query`` and ``key`` are int8 B H S D with float32 scales B H blocks, as `qk_norm_rope_8bit` gives them.
    """
    wide = inner(value.dtype)
    mixed = _mixed(query, query_scale, key, key_scale, value.to(wide), scale)
    return mixed.transpose(1, 2).contiguous().to(value.dtype)


def plain_attention_fp8(
    query: Tensor,
    query_scale: Tensor,
    key: Tensor,
    key_scale: Tensor,
    value: Tensor,
    value_scale: Tensor,
    scale: float,
) -> Tensor:
    """Return bfloat16 B S H D; ``value`` is float8_e4m3fn B H D S with scales B H D, as `quantise_values` gives them."""
    values = value.float().transpose(2, 3) * value_scale[:, :, None]
    mixed = _mixed(query, query_scale, key, key_scale, values[:, :, : query.shape[2]], scale)
    return mixed.transpose(1, 2).contiguous().to(torch.bfloat16)


def _mixed(query: Tensor, query_scale: Tensor, key: Tensor, key_scale: Tensor, value: Tensor, scale: float) -> Tensor:
    queries, keys = (
        part.to(value.dtype) * units.to(value.dtype).repeat_interleave(QUANT_BLOCK, 2)[:, :, : part.shape[2], None]
        for part, units in ((query, query_scale), (key, key_scale))
    )
    return torch.nn.functional.scaled_dot_product_attention(queries, keys, value, scale=scale)


def quantise_values(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``value`` (B H S D) as float8_e4m3fn B H D S, tokens padded to 16, and float32 scales per channel, B H D.

    Tokens are last because FP8 matrix units read both operands along the summed axis.
    """
    scale = value.abs().amax(2).float().clamp_min(1e-8) / 448.0
    turned = (value.float() / scale[:, :, None]).transpose(2, 3)
    return torch.nn.functional.pad(turned, (0, -value.shape[2] % 16)).to(torch.float8_e4m3fn), scale


def compiled_attention_8bit(
    query: Tensor, query_scale: Tensor, key: Tensor, key_scale: Tensor, value: Tensor, scale: float
) -> Tensor:
    """`plain_attention_8bit` as one kernel."""
    output = _fake(query, query_scale, key, key_scale, value, scale)
    _launch((query, query_scale, key, key_scale), value, query_scale, output, scale, False)
    return output


def compiled_attention_fp8(
    query: Tensor,
    query_scale: Tensor,
    key: Tensor,
    key_scale: Tensor,
    value: Tensor,
    value_scale: Tensor,
    scale: float,
) -> Tensor:
    """`plain_attention_fp8` as one kernel."""
    output = _fake_fp8(query)
    _launch((query, query_scale, key, key_scale), value.transpose(2, 3), value_scale, output, scale, True)
    return output


def _launch(
    parts: tuple[Tensor, Tensor, Tensor, Tensor],
    value: Tensor,
    value_scale: Tensor,
    output: Tensor,
    scale: float,
    fp8: bool,
) -> None:
    query, query_scale, key, key_scale = (part.contiguous() for part in parts)
    batch, heads, length, width = query.shape
    block_n, warps, stages = tile(capability(query), width, fp8)
    attention_8bit_kernel[(ceil_div(length, QUANT_BLOCK), batch * heads)](
        query, key, query_scale, key_scale, value, value_scale, output, heads, length, scale * LOG2_E, *value.stride(),
        D=width, BLOCK_M=QUANT_BLOCK, BLOCK_N=block_n, QUANT=QUANT_BLOCK, FP8=fp8, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def tile(architecture: int, width: int, fp8: bool) -> tuple[int, int, int]:
    """Return columns, warps and stages of a block; its rows are those that share a scale."""
    if architecture in (90, 100):
        return (128, 8, 3) if width == 64 else (64, 8, 3)
    if width == 64:
        return 64, 8 if architecture == 120 and fp8 else 4, 3
    return 64, 8, 2


def _fake(query: Tensor, *rest: Any) -> Tensor:
    value: Tensor = rest[3]
    return value.new_empty((query.shape[0], query.shape[2], query.shape[1], query.shape[3]))


def _fake_fp8(query: Tensor, *_: Any) -> Tensor:
    shape = (query.shape[0], query.shape[2], query.shape[1], query.shape[3])
    return query.new_empty(shape, dtype=torch.bfloat16)


attention_8bit = operator(plain_attention_8bit, compiled_attention_8bit, _fake)
attention_fp8 = operator(plain_attention_fp8, compiled_attention_fp8, _fake_fp8)


def _variant(width: int, fp8: bool, architecture: int) -> Variant:
    signature = {
        "query_ptr": "*i8", "key_ptr": "*i8", "query_scale_ptr": "*fp32", "key_scale_ptr": "*fp32",
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
    """Return the forms to compile: head width, and 16-bit or FP8 values."""
    kinds = (False, True) if architecture in FP8_ARCHITECTURES else (False,)
    return tuple(_variant(width, fp8, architecture) for width in (64, 128) for fp8 in kinds)
