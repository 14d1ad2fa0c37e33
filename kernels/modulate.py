"""Gated residual, LayerNorm, scale and shift in one pass over the tokens, with an optional 8-bit result.

CogVideoX modulates text and video tokens with numbers of their own; both lie in one tensor, text first, and a table's
row 0 is the video's, row 1 the text's, each (shift, scale, gate), as `CogVideoXLayerNormZero.linear` gives them.
"""

from typing import Any

import torch
from torch import Tensor

from .language import jit, power_of_two, tl
from .operator import inner, operator
from .quantise import quantise_rows
from .variant import FP8_ARCHITECTURES, Variant


@jit
def modulate_kernel(
    residual_ptr, update_ptr, before_ptr, after_ptr, weight_ptr, bias_ptr, sum_ptr, output_ptr, scale_ptr,
    length, words, epsilon,
    D: tl.constexpr, BLOCK: tl.constexpr, UPDATED: tl.constexpr, EIGHT_BIT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    inside = lane < D
    table = tl.where(row % length < words, 3 * D, 0) + lane
    x = tl.load(residual_ptr + row * D + lane, inside, other=0.0).to(tl.float32)
    if UPDATED:
        gate = tl.load(before_ptr + table + 2 * D, inside, other=0.0).to(tl.float32)
        x += gate * tl.load(update_ptr + row * D + lane, inside, other=0.0).to(tl.float32)
        tl.store(sum_ptr + row * D + lane, x.to(sum_ptr.dtype.element_ty), inside)
    x = tl.where(inside, x - tl.sum(x) / D, 0.0)
    x *= tl.rsqrt(tl.sum(x * x) / D + epsilon)
    x = x * tl.load(weight_ptr + lane, inside, other=0.0).to(tl.float32)
    x += tl.load(bias_ptr + lane, inside, other=0.0).to(tl.float32)
    x *= 1.0 + tl.load(after_ptr + table + D, inside, other=0.0).to(tl.float32)
    x += tl.load(after_ptr + table, inside, other=0.0).to(tl.float32)
    if EIGHT_BIT:
        scale = tl.maximum(tl.max(tl.abs(x)), 1e-8) / 448.0
        tl.store(scale_ptr + row, scale)
        x = x / scale
    tl.store(output_ptr + row * D + lane, x.to(output_ptr.dtype.element_ty), inside)


def plain_modulate(
    residual: Tensor,
    update: Tensor,
    before: Tensor,
    after: Tensor,
    weight: Tensor,
    bias: Tensor,
    words: int,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Return ``residual + gate x update`` and its modulated LayerNorm; the twin of `compiled_modulate`.

    ``residual`` and ``update`` are B S D with ``words`` text tokens first; ``before`` holds the gate of the update and
    ``after`` shift and scale of the norm, each 2 x 3 x D (see the module); ``weight`` and ``bias`` are the norm's.
    """
    wide = inner(residual.dtype)
    summed = residual.to(wide) + _by_token(before[:, 2], residual, words).to(wide) * update.to(wide)
    return summed.to(residual.dtype), _modulated(summed, after, weight, bias, words, epsilon).to(residual.dtype)


def plain_modulate_first(
    residual: Tensor, after: Tensor, weight: Tensor, bias: Tensor, words: int, epsilon: float
) -> Tensor:
    """Return the modulated LayerNorm of ``residual`` alone: where no update precedes it."""
    wide = residual.to(inner(residual.dtype))
    return _modulated(wide, after, weight, bias, words, epsilon).to(residual.dtype)


def plain_modulate_8bit(
    residual: Tensor,
    update: Tensor,
    before: Tensor,
    after: Tensor,
    weight: Tensor,
    bias: Tensor,
    words: int,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum, the norm as float8_e4m3fn B S D, and its float32 scales B S (one a row)."""
    wide = inner(residual.dtype)
    summed = residual.to(wide) + _by_token(before[:, 2], residual, words).to(wide) * update.to(wide)
    return summed.to(residual.dtype), *quantise_rows(_modulated(summed, after, weight, bias, words, epsilon))


def plain_modulate_first_8bit(
    residual: Tensor, after: Tensor, weight: Tensor, bias: Tensor, words: int, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return `plain_modulate_first` as float8_e4m3fn and float32 scales."""
    wide = residual.to(inner(residual.dtype))
    return quantise_rows(_modulated(wide, after, weight, bias, words, epsilon))


def _by_token(table: Tensor, tokens: Tensor, words: int) -> Tensor:
    """Return S x D: row 1 of ``table`` for the text, row 0 for the video."""
    return torch.cat([table[1:].expand(words, -1), table[:1].expand(tokens.shape[1] - words, -1)])


def _modulated(x: Tensor, after: Tensor, weight: Tensor, bias: Tensor, words: int, epsilon: float) -> Tensor:
    shift, scale = (_by_token(after[:, index], x, words).to(x.dtype) for index in (0, 1))
    normed = torch.nn.functional.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), epsilon)
    return normed * (1 + scale) + shift


def compiled_modulate(
    residual: Tensor,
    update: Tensor,
    before: Tensor,
    after: Tensor,
    weight: Tensor,
    bias: Tensor,
    words: int,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """`plain_modulate` as one kernel."""
    summed, output = _fake(residual)
    _launch(residual, update, before, after, (weight, bias, summed, output, output), words, epsilon, False)
    return summed, output


def compiled_modulate_first(
    residual: Tensor, after: Tensor, weight: Tensor, bias: Tensor, words: int, epsilon: float
) -> Tensor:
    """`plain_modulate_first` as one kernel."""
    output = _fake_first(residual)
    _launch(residual, None, after, after, (weight, bias, output, output, output), words, epsilon, False)
    return output


def compiled_modulate_8bit(
    residual: Tensor,
    update: Tensor,
    before: Tensor,
    after: Tensor,
    weight: Tensor,
    bias: Tensor,
    words: int,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`plain_modulate_8bit` as one kernel."""
    summed, output, scale = _fake_8bit(residual)
    _launch(residual, update, before, after, (weight, bias, summed, output, scale), words, epsilon, True)
    return summed, output, scale


def compiled_modulate_first_8bit(
    residual: Tensor, after: Tensor, weight: Tensor, bias: Tensor, words: int, epsilon: float
) -> tuple[Tensor, Tensor]:
    """`plain_modulate_first_8bit` as one kernel."""
    output, scale = _fake_first_8bit(residual)
    _launch(residual, None, after, after, (weight, bias, residual, output, scale), words, epsilon, True)
    return output, scale


def _launch(
    residual: Tensor,
    update: Tensor | None,
    before: Tensor,
    after: Tensor,
    others: tuple[Tensor, ...],
    words: int,
    epsilon: float,
    eight_bit: bool,
) -> None:
    batch, length, width = residual.shape
    x = residual.contiguous()
    y = x if update is None else update.contiguous()
    modulate_kernel[(batch * length,)](
        x, y, before.contiguous(), after.contiguous(), *others, length, words, epsilon,
        D=width, BLOCK=power_of_two(width), UPDATED=update is not None, EIGHT_BIT=eight_bit, num_warps=_warps(width),
    )  # fmt: skip


def _warps(width: int) -> int:
    return 8 if width > 2048 else 4


def _fake(residual: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return residual.new_empty(residual.shape), residual.new_empty(residual.shape)


def _fake_first(residual: Tensor, *_: Any) -> Tensor:
    return residual.new_empty(residual.shape)


def _fake_8bit(residual: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return residual.new_empty(residual.shape), *_fake_first_8bit(residual)


def _fake_first_8bit(residual: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    numbers = residual.new_empty(residual.shape, dtype=torch.float8_e4m3fn)
    return numbers, residual.new_empty(residual.shape[:2], dtype=torch.float32)


modulate = operator(plain_modulate, compiled_modulate, _fake)
modulate_first = operator(plain_modulate_first, compiled_modulate_first, _fake_first)
modulate_8bit = operator(plain_modulate_8bit, compiled_modulate_8bit, _fake_8bit)
modulate_first_8bit = operator(plain_modulate_first_8bit, compiled_modulate_first_8bit, _fake_first_8bit)


def _variant(dtype: str, width: int, updated: bool, eight_bit: bool) -> Variant:
    output = "fp8e4nv" if eight_bit else dtype
    pointers = dict.fromkeys(
        ("residual_ptr", "update_ptr", "before_ptr", "after_ptr", "weight_ptr", "bias_ptr", "sum_ptr"), f"*{dtype}"
    )
    signature = pointers | {"output_ptr": f"*{output}", "scale_ptr": "*fp32"}
    signature |= {"length": "i32", "words": "i32", "epsilon": "fp32"}
    constants = {"D": width, "BLOCK": power_of_two(width), "UPDATED": updated, "EIGHT_BIT": eight_bit}
    name = f"modulate_{dtype}_{width}" + ("" if updated else "_first") + ("_8bit" if eight_bit else "")
    return Variant(name, modulate_kernel, signature, constants, _warps(width))


def variants(architecture: int) -> tuple[Variant, ...]:
    """Return the forms to compile: CogVideoX 5B's and 2B's widths, first or updated, 8-bit where the target has FP8."""
    kinds = [(width, updated, False) for width in (3072, 1920) for updated in (True, False)]
    if architecture in FP8_ARCHITECTURES:
        kinds += [(width, updated, True) for width in (3072, 1920) for updated in (True, False)]
    return tuple(_variant("bf16", *kind) for kind in kinds)
