"""LayerNorm of queries and keys over each head, 3D RoPE on video tokens, heads split, in one pass over the projection.

CogVideoX's joint attention has text tokens first; they are normalised and not rotated. The 8-bit form also gives one
scale per block of 128 tokens and head, after the keys' ``centre`` is taken off: any vector per head leaves the softmax as
it is, and one near the keys' mean leaves less to quantise (SageAttention's smoothing).
"""

import torch
from torch import Tensor

from .language import ceil_div, jit, tl
from .operator import inner, operator
from .variant import Variant

QUANT_BLOCK = 128
"""Tokens that share a scale: the tile of the 8-bit attention kernel."""
LEVELS = 127.0


@jit
def qk_norm_rope_kernel(
    qkv_ptr, query_weight_ptr, query_bias_ptr, key_weight_ptr, key_bias_ptr, cosines_ptr, sines_ptr, centre_ptr,
    query_ptr, key_ptr, query_scale_ptr, key_scale_ptr,
    length, words, heads, stride_b, stride_s, epsilon,
    D: tl.constexpr, BLOCK: tl.constexpr, EIGHT_BIT: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    batch = tl.program_id(2)
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, D)
    inside = (token < length)[:, None]
    half = tl.arange(0, D // 2)
    turned = ((token >= words) & (token < length))[:, None]
    turn = tl.maximum(token - words, 0).to(tl.int64)[:, None] * (D // 2) + half[None, :]
    cosine = tl.load(cosines_ptr + turn, turned, other=1.0)  # text tokens turn by nothing
    sine = tl.load(sines_ptr + turn, turned, other=0.0)
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
            scale = tl.maximum(tl.max(tl.abs(x)), 1e-8) / 127.0
            scale_ptr = query_scale_ptr if part == 0 else key_scale_ptr
            tl.store(scale_ptr + (batch * heads + head) * blocks + tl.program_id(0), scale)
            x = x / scale
            x = tl.where(x >= 0, tl.floor(x + 0.5), tl.ceil(x - 0.5))
        tl.store(output_ptr + target, x.to(output_ptr.dtype.element_ty), inside)


def plain_qk_norm_rope(
    qkv: Tensor,
    query_weight: Tensor,
    query_bias: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Return queries and keys, each B S H D seen as B H S D, in the dtype of ``qkv``; twin of `compiled_qk_norm_rope`.

    ``qkv`` is B S 3 H D in one row per token (queries, keys, values), ``cosines`` and ``sines`` are N x D/2 for the last N of
    the S tokens, float32; consecutive pairs of channels are rotated (CogVideoX).
    """
    wide = inner(qkv.dtype)
    query, key = (
        _rotated(part.to(wide), weight.to(wide), bias.to(wide), cosines, sines, epsilon)
        for part, weight, bias in zip(
            qkv.unflatten(-1, (3, heads, -1)).unbind(2)[:2],
            (query_weight, key_weight),
            (query_bias, key_bias),
            strict=True,
        )
    )
    return _tokens_apart(query.to(qkv.dtype)), _tokens_apart(key.to(qkv.dtype))


def _tokens_apart(x: Tensor) -> Tensor:
    """Return B H S D with the memory of B S H D."""
    return x.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)


def plain_qk_norm_rope_8bit(
    qkv: Tensor,
    query_weight: Tensor,
    query_bias: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    cosines: Tensor,
    sines: Tensor,
    centre: Tensor,
    heads: int,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return int8 queries and keys, B H S D, and their float32 scales, B H blocks; keys less ``centre``, B H D float32."""
    wide = qkv.to(inner(qkv.dtype))
    query, key = plain_qk_norm_rope(
        wide, query_weight, query_bias, key_weight, key_bias, cosines, sines, heads, epsilon
    )
    return *quantise_blocks(query), *quantise_blocks(key - centre[:, :, None])


def _rotated(x: Tensor, weight: Tensor, bias: Tensor, cosines: Tensor, sines: Tensor, epsilon: float) -> Tensor:
    normed = torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, epsilon).transpose(1, 2)
    words = normed.shape[2] - cosines.shape[0]
    text, video = normed.split([words, cosines.shape[0]], 2)
    real, imaginary = video.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([real * cosines - imaginary * sines, imaginary * cosines + real * sines], -1).flatten(-2)
    return torch.cat([text, turned], 2)


def quantise_blocks(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x`` (B H S D) as int8, and float32 scales per block of 128 tokens, B H blocks."""
    length = x.shape[2]
    blocks = ceil_div(length, QUANT_BLOCK)
    padded = torch.nn.functional.pad(x, (0, 0, 0, blocks * QUANT_BLOCK - length)).unflatten(2, (blocks, QUANT_BLOCK))
    scale = padded.abs().amax((-2, -1)).clamp_min(1e-8) / LEVELS
    scaled = padded / scale[..., None, None]
    rounded = torch.where(scaled >= 0, (scaled + 0.5).floor(), (scaled - 0.5).ceil())
    return rounded.to(torch.int8).flatten(2, 3)[:, :, :length].contiguous(), scale.float()


def compiled_qk_norm_rope(
    qkv: Tensor,
    query_weight: Tensor,
    query_bias: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """`plain_qk_norm_rope` as one kernel."""
    query, key = _fake(qkv, heads)
    pointers = (query_weight, query_bias, key_weight, key_bias, cosines, sines, query, query, key, query, key)
    _launch(qkv, heads, epsilon, pointers, False)
    return query, key


def compiled_qk_norm_rope_8bit(
    qkv: Tensor,
    query_weight: Tensor,
    query_bias: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    cosines: Tensor,
    sines: Tensor,
    centre: Tensor,
    heads: int,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`plain_qk_norm_rope_8bit` as one kernel."""
    parts = _fake_8bit(qkv, heads)
    query, query_scale, key, key_scale = parts
    weights = (query_weight, query_bias, key_weight, key_bias, cosines, sines, centre.contiguous())
    _launch(qkv, heads, epsilon, (*weights, query, key, query_scale, key_scale), True)
    return parts


def _launch(qkv: Tensor, heads: int, epsilon: float, pointers: tuple[Tensor, ...], eight_bit: bool) -> None:
    block, warps = _tile(eight_bit)
    dense = qkv if qkv.stride(-1) == 1 else qkv.contiguous()
    batch, length, width = dense.shape
    words = length - pointers[4].shape[0]
    qk_norm_rope_kernel[(ceil_div(length, block), heads, batch)](
        dense, *pointers, length, words, heads, dense.stride(0), dense.stride(1), epsilon,
        D=width // (3 * heads), BLOCK=block, EIGHT_BIT=eight_bit, num_warps=warps,
    )  # fmt: skip


def _tile(eight_bit: bool) -> tuple[int, int]:
    """Return tokens and warps of a block: where they share a scale, those that do."""
    return (QUANT_BLOCK, 8) if eight_bit else (32, 4)


def _fake(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    shape = (qkv.shape[0], qkv.shape[1], heads, qkv.shape[2] // (3 * heads))
    return qkv.new_empty(shape).transpose(1, 2), qkv.new_empty(shape).transpose(1, 2)


def _fake_8bit(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (qkv.shape[0], heads, qkv.shape[1], qkv.shape[2] // (3 * heads))
    scales = (*shape[:2], -(-qkv.shape[1] // QUANT_BLOCK))
    query, key = (qkv.new_empty(shape, dtype=torch.int8) for _ in range(2))
    query_scale, key_scale = (qkv.new_empty(scales, dtype=torch.float32) for _ in range(2))
    return query, query_scale, key, key_scale


qk_norm_rope = operator(plain_qk_norm_rope, compiled_qk_norm_rope, lambda qkv, *rest: _fake(qkv, rest[-2]))
qk_norm_rope_8bit = operator(
    plain_qk_norm_rope_8bit, compiled_qk_norm_rope_8bit, lambda qkv, *rest: _fake_8bit(qkv, rest[-2])
)


def _variant(dtype: str, width: int, eight_bit: bool) -> Variant:
    output = "i8" if eight_bit else dtype
    pointers = {
        "qkv_ptr": dtype, "query_weight_ptr": dtype, "query_bias_ptr": dtype, "key_weight_ptr": dtype, "key_bias_ptr": dtype,
        "cosines_ptr": "fp32", "sines_ptr": "fp32", "centre_ptr": "fp32", "query_ptr": output, "key_ptr": output,
        "query_scale_ptr": "fp32", "key_scale_ptr": "fp32",
    }  # fmt: skip
    numbers = dict.fromkeys(("length", "words", "heads", "stride_b", "stride_s"), "i32") | {"epsilon": "fp32"}
    signature = {name: f"*{kind}" for name, kind in pointers.items()} | numbers
    block, warps = _tile(eight_bit)
    constants = {"D": width, "BLOCK": block, "EIGHT_BIT": eight_bit}
    name = f"qk_norm_rope_{dtype}_d{width}" + ("_8bit" if eight_bit else "")
    return Variant(name, qk_norm_rope_kernel, signature, constants, warps, divisible=("stride_b", "stride_s"))


def variants(architecture: int) -> tuple[Variant, ...]:
    """Return the forms to compile: dtype, head width and output."""
    kinds = (("bf16", 64, False), ("fp16", 64, False), ("bf16", 128, False), ("bf16", 64, True), ("bf16", 128, True))
    return tuple(_variant(*kind) for kind in kinds)
