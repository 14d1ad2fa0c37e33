"""LayerNorm of queries and keys over each head, 3D RoPE on video tokens, heads split, in one pass over the projection.

CogVideoX's joint attention has text tokens first; they are normalised and not rotated. With a ``centre`` the result has 8
bits, and one scale per block of 128 tokens and head. The centre is taken off the keys before: any vector per head leaves the
softmax as it is, and one near the keys' mean leaves less to quantise (SageAttention's smoothing). In FP8 the values are
quantised in the same pass.
"""

import torch
from torch import Tensor

from .language import ceil_div, jit, tl
from .launch import Launch, compiled, named
from .operator import operator, wide_dtype
from .variant import FP8_ARCHITECTURES, Variant

QUANT_BLOCK = 128
"""Tokens that share a scale: the tile of the 8-bit attention kernel."""
LEVELS, LARGEST = 127.0, 448.0
"""The largest int8 and float8_e4m3fn."""


@jit
def qk_norm_rope_kernel(
    qkv_ptr, query_weight_ptr, query_bias_ptr, key_weight_ptr, key_bias_ptr, cosines_ptr, sines_ptr, centre_ptr,
    query_ptr, key_ptr, query_scale_ptr, key_scale_ptr, value_ptr, value_scale_ptr,
    length, text_length, heads, stride_b, stride_s, epsilon,
    D: tl.constexpr, BLOCK: tl.constexpr, EIGHT_BIT: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    batch = tl.program_id(2)
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, D)
    inside = (token < length)[:, None]
    half = tl.arange(0, D // 2)
    rotated = ((token >= text_length) & (token < length))[:, None]
    position = tl.maximum(token - text_length, 0).to(tl.int64)[:, None] * (D // 2) + half[None, :]
    cosine = tl.load(cosines_ptr + position, rotated, other=1.0)  # text tokens turn by nothing
    sine = tl.load(sines_ptr + position, rotated, other=0.0)
    source = qkv_ptr + batch.to(tl.int64) * stride_b + token.to(tl.int64)[:, None] * stride_s + head * D + lane[None, :]
    if EIGHT_BIT:  # heads apart: a block of tokens that share a scale lies together
        row = (batch * heads + head).to(tl.int64) * length + token
    else:  # tokens apart, as the library gives attention's result the layout of its queries
        row = (batch * length + token).to(tl.int64) * heads + head
    target = row[:, None] * D + lane[None, :]
    blocks = (length + BLOCK - 1) // BLOCK
    for part in tl.static_range(2):
        weight_ptr = query_weight_ptr if part == 0 else key_weight_ptr
        bias_ptr = query_bias_ptr if part == 0 else key_bias_ptr
        x = tl.load(source + part * heads * D, inside, other=0.0).to(tl.float32)
        x -= (tl.sum(x, 1) / D)[:, None]
        x *= tl.rsqrt(tl.sum(x * x, 1) / D + epsilon)[:, None]
        x = x * tl.load(weight_ptr + lane).to(tl.float32)[None, :] + tl.load(bias_ptr + lane).to(tl.float32)[None, :]
        real, imaginary = tl.split(tl.reshape(x, (BLOCK, D // 2, 2)))
        x = tl.join(real * cosine - imaginary * sine, imaginary * cosine + real * sine).reshape(BLOCK, D)
        output_ptr = query_ptr if part == 0 else key_ptr
        if EIGHT_BIT:
            if part == 1:
                x -= tl.load(centre_ptr + (batch * heads + head) * D + lane)[None, :]
            x = tl.where(inside, x, 0.0)
            scale = tl.maximum(tl.max(tl.abs(x)), 1e-8) / (448.0 if FP8 else 127.0)
            scale_ptr = query_scale_ptr if part == 0 else key_scale_ptr
            tl.store(scale_ptr + (batch * heads + head) * blocks + tl.program_id(0), scale)
            x = x / scale
            if not FP8:
                x = tl.where(x >= 0, tl.floor(x + 0.5), tl.ceil(x - 0.5))
        tl.store(output_ptr + target, x.to(output_ptr.dtype.element_ty), inside)
    if FP8:
        value = tl.load(source + 2 * heads * D, inside, other=0.0).to(tl.float32)
        scale = tl.maximum(tl.max(tl.abs(value)), 1e-8) / 448.0
        plane = batch * heads + head
        tl.store(value_scale_ptr + plane * blocks + tl.program_id(0), scale)
        # Channels apart, as FP8 matrix units read both operands along the summed axis; the last block is filled with zeros.
        column = (plane.to(tl.int64) * D + lane) * (blocks * BLOCK)
        tl.store(value_ptr + column[None, :] + token[:, None], (value / scale).to(value_ptr.dtype.element_ty))


def plain_qk_norm_rope(
    qkv: Tensor, query_weight: Tensor, query_bias: Tensor, key_weight: Tensor, key_bias: Tensor, cosines: Tensor,
    sines: Tensor, centre: Tensor | None, heads: int, epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return queries and keys, B H S D in the memory of B S H D, and no scales; the twin of `compiled_qk_norm_rope`.

    ``qkv`` is B S 3 H D in one row per token (queries, keys, values), ``cosines`` and ``sines`` are N x D/2 for the last N of
    the S tokens, float32; consecutive pairs of channels are rotated (CogVideoX). With a ``centre``, B H D float32, both are
    int8 B H S D, the keys less the centre, and have float32 scales, B H blocks; without it the scales are empty.
    """
    query, key = _normed_rotated(
        qkv, (query_weight, query_bias), (key_weight, key_bias), cosines, sines, heads, epsilon
    )
    if centre is None:
        none = qkv.new_empty(0, dtype=torch.float32)
        return _tokens_apart(query.to(qkv.dtype)), _tokens_apart(key.to(qkv.dtype)), none, none.clone()
    (query, query_scale), (key, key_scale) = quantise_blocks(query), quantise_blocks(key - centre[:, :, None])
    return query, key, query_scale, key_scale


def plain_qk_norm_rope_fp8(
    qkv: Tensor, query_weight: Tensor, query_bias: Tensor, key_weight: Tensor, key_bias: Tensor, cosines: Tensor,
    sines: Tensor, centre: Tensor, heads: int, epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return queries, keys and their scales as `plain_qk_norm_rope`, in float8_e4m3fn, then values and theirs.

    Values are B H D T, tokens last and padded with zeros to whole blocks, with float32 scales B H blocks. The twin of
    `compiled_qk_norm_rope_fp8`.
    """
    query, key = _normed_rotated(
        qkv, (query_weight, query_bias), (key_weight, key_bias), cosines, sines, heads, epsilon
    )
    value = qkv.unflatten(-1, (3, heads, -1))[:, :, 2].transpose(1, 2)
    (query, query_scale), (key, key_scale) = quantise_blocks_fp8(query), quantise_blocks_fp8(key - centre[:, :, None])
    return query, key, query_scale, key_scale, *quantise_values(value)


def _normed_rotated(
    qkv: Tensor, query_norm: tuple[Tensor, Tensor], key_norm: tuple[Tensor, Tensor], cosines: Tensor, sines: Tensor,
    heads: int, epsilon: float,
) -> list[Tensor]:  # fmt: skip
    """Return queries and keys, B H S D, in a wide dtype."""
    wide = wide_dtype(qkv.dtype)
    return [
        _rotated(tokens.to(wide), weight.to(wide), bias.to(wide), cosines, sines, epsilon)
        for tokens, (weight, bias) in zip(
            qkv.unflatten(-1, (3, heads, -1)).unbind(2)[:2], (query_norm, key_norm), strict=True
        )
    ]


def _tokens_apart(x: Tensor) -> Tensor:
    """Return B H S D with the memory of B S H D."""
    return x.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)


def _rotated(x: Tensor, weight: Tensor, bias: Tensor, cosines: Tensor, sines: Tensor, epsilon: float) -> Tensor:
    normed = torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, epsilon).transpose(1, 2)
    text, video = normed.split([normed.shape[2] - cosines.shape[0], cosines.shape[0]], 2)
    real, imaginary = video.unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([real * cosines - imaginary * sines, imaginary * cosines + real * sines], -1).flatten(-2)
    return torch.cat([text, rotated], 2)


def quantise_blocks(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x`` (B H S D) as int8, and float32 scales per block of 128 tokens, B H blocks."""
    scaled, scale = _scaled_blocks(x, LEVELS)
    rounded = torch.where(scaled >= 0, (scaled + 0.5).floor(), (scaled - 0.5).ceil())
    return rounded.to(torch.int8)[:, :, : x.shape[2]].contiguous(), scale


def quantise_blocks_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same as float8_e4m3fn."""
    scaled, scale = _scaled_blocks(x, LARGEST)
    return scaled.to(torch.float8_e4m3fn)[:, :, : x.shape[2]].contiguous(), scale


def quantise_values(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return values (B H S D) as float8_e4m3fn B H D T, whole blocks, and float32 scales B H blocks."""
    scaled, scale = _scaled_blocks(value, LARGEST)
    return scaled.transpose(2, 3).to(torch.float8_e4m3fn).contiguous(), scale


def _scaled_blocks(x: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """Return ``x`` (B H S D), whole blocks of tokens, over their scales, such that no number is above ``largest``."""
    x, length = x.to(wide_dtype(x.dtype)), x.shape[2]
    blocks = ceil_div(length, QUANT_BLOCK)
    padded = torch.nn.functional.pad(x, (0, 0, 0, blocks * QUANT_BLOCK - length)).unflatten(2, (blocks, QUANT_BLOCK))
    scale = padded.abs().amax((-2, -1)).clamp_min(1e-8) / largest
    return (padded / scale[..., None, None]).flatten(2, 3), scale.float()


def launch_qk_norm_rope(
    qkv: Tensor, query_weight: Tensor, query_bias: Tensor, key_weight: Tensor, key_bias: Tensor, cosines: Tensor,
    sines: Tensor, centre: Tensor | None, heads: int, epsilon: float,
) -> tuple[Launch, tuple[Tensor, Tensor, Tensor, Tensor]]:  # fmt: skip
    """Return the launch and what it writes."""
    norms = query_weight, query_bias, key_weight, key_bias
    dtype = None if centre is None else torch.int8
    launch, written = _launch(qkv, norms, cosines, sines, centre, heads, epsilon, dtype)
    return launch, written[:4]


def launch_qk_norm_rope_fp8(
    qkv: Tensor, query_weight: Tensor, query_bias: Tensor, key_weight: Tensor, key_bias: Tensor, cosines: Tensor,
    sines: Tensor, centre: Tensor, heads: int, epsilon: float,
) -> tuple[Launch, tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]:  # fmt: skip
    """Return the launch and what it writes."""
    norms = query_weight, query_bias, key_weight, key_bias
    return _launch(qkv, norms, cosines, sines, centre, heads, epsilon, torch.float8_e4m3fn)


def _launch(
    qkv: Tensor, norms: tuple[Tensor, ...], cosines: Tensor, sines: Tensor, centre: Tensor | None, heads: int,
    epsilon: float, dtype: torch.dtype | None,
) -> tuple[Launch, tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]:  # fmt: skip
    """Return the launch in ``dtype``, None for that of ``qkv``, and what it writes; values in FP8 only."""
    fp8 = dtype == torch.float8_e4m3fn
    dense = qkv if qkv.stride(-1) == 1 else qkv.contiguous()
    batch, length, width = dense.shape[0], dense.shape[1], dense.shape[2] // (3 * heads)
    if dtype is None:
        query, key = (qkv.new_empty((batch, length, heads, width)).transpose(1, 2) for _ in "qk")
    else:
        query, key = (qkv.new_empty((batch, heads, length, width), dtype=dtype) for _ in "qk")
    count = ceil_div(length, QUANT_BLOCK)
    blocks = (0,) if dtype is None else (batch, heads, count)
    query_scale, key_scale = (qkv.new_empty(blocks, dtype=torch.float32) for _ in "qk")
    value, value_scale = query, query_scale  # not written
    if fp8:
        value = qkv.new_empty((batch, heads, width, count * QUANT_BLOCK), dtype=dtype)
        value_scale = torch.empty_like(query_scale)
    outputs = query, key, query_scale, key_scale, value, value_scale
    block, warps = _tile(dtype is not None)
    sizes = length, length - cosines.shape[0], heads, dense.stride(0), dense.stride(1), epsilon
    tensors = dense, *norms, cosines, sines, query if centre is None else centre.contiguous(), *outputs
    constants = {"D": width, "BLOCK": block, "EIGHT_BIT": dtype is not None, "FP8": fp8}
    grid = ceil_div(length, block), heads, batch
    arguments = named(qk_norm_rope_kernel, *tensors, *sizes)
    return Launch(qk_norm_rope_kernel, grid, arguments, constants, warps), outputs


def _tile(eight_bit: bool) -> tuple[int, int]:
    """Return tokens and warps of a block: where they share a scale, those that do."""
    return (QUANT_BLOCK, 8) if eight_bit else (32, 4)


compiled_qk_norm_rope = compiled(launch_qk_norm_rope)
qk_norm_rope = operator(plain_qk_norm_rope, compiled_qk_norm_rope)
compiled_qk_norm_rope_fp8 = compiled(launch_qk_norm_rope_fp8)
qk_norm_rope_fp8 = operator(plain_qk_norm_rope_fp8, compiled_qk_norm_rope_fp8)


def _variant(dtype: str, width: int, output: str) -> Variant:
    pointers = {
        "qkv_ptr": dtype, "query_weight_ptr": dtype, "query_bias_ptr": dtype, "key_weight_ptr": dtype, "key_bias_ptr": dtype,
        "cosines_ptr": "fp32", "sines_ptr": "fp32", "centre_ptr": "fp32", "query_ptr": output, "key_ptr": output,
        "query_scale_ptr": "fp32", "key_scale_ptr": "fp32", "value_ptr": output, "value_scale_ptr": "fp32",
    }  # fmt: skip
    numbers = dict.fromkeys(("length", "text_length", "heads", "stride_b", "stride_s"), "i32") | {"epsilon": "fp32"}
    signature = {name: f"*{kind}" for name, kind in pointers.items()} | numbers
    eight_bit, fp8 = output != dtype, output == "fp8e4nv"
    block, warps = _tile(eight_bit)
    constants = {"D": width, "BLOCK": block, "EIGHT_BIT": eight_bit, "FP8": fp8}
    name = f"qk_norm_rope_{dtype}_d{width}" + ("_fp8" if fp8 else "_8bit" if eight_bit else "")
    return Variant(name, qk_norm_rope_kernel, signature, constants, warps, divisible=("stride_b", "stride_s"))


def variants(architecture: int) -> tuple[Variant, ...]:
    """Return the forms to compile: dtype, head width and output."""
    kinds = [("bf16", 64, "bf16"), ("fp16", 64, "fp16"), ("bf16", 128, "bf16"), ("bf16", 64, "i8"), ("bf16", 128, "i8")]
    if architecture in FP8_ARCHITECTURES:
        kinds += [("bf16", 64, "fp8e4nv"), ("bf16", 128, "fp8e4nv")]
    return tuple(_variant(*kind) for kind in kinds)
