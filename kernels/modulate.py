"""Gated residual, LayerNorm, scale and shift in one pass over the tokens, with an optional 8-bit result.

CogVideoX modulates text and video tokens with numbers of their own. Both lie in one tensor, text first. A modulation is
2 x 3 x D: the video's in row 0, the text's in row 1, each (shift, scale, gate), as `CogVideoXLayerNormZero.linear` gives them.
"""

import torch
from torch import Tensor

from .language import jit, tl
from .launch import Launch, compiled, named
from .operator import operator, wide_dtype
from .quantise import quantise_rows
from .row import part_of, warps_of
from .variant import FP8_ARCHITECTURES, Variant


@jit
def modulate_kernel(
    residual_ptr, update_ptr, before_ptr, after_ptr, weight_ptr, bias_ptr, sum_ptr, output_ptr, scale_ptr,
    length, text_length, epsilon,
    D: tl.constexpr, PART: tl.constexpr, UPDATED: tl.constexpr, EIGHT_BIT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    lanes = tl.arange(0, PART)
    modulation = tl.where(row % length < text_length, 3 * D, 0)
    before_ptr += modulation
    after_ptr += modulation
    start = row.to(tl.int64) * D
    parts = ()
    total = tl.zeros((PART,), tl.float32)
    for at in tl.static_range(0, D, PART):
        lane = at + lanes
        inside = lane < D
        x = tl.load(residual_ptr + start + lane, inside, other=0.0).to(tl.float32)
        if UPDATED:
            gate = tl.load(before_ptr + 2 * D + lane, inside, other=0.0).to(tl.float32)
            x += gate * tl.load(update_ptr + start + lane, inside, other=0.0).to(tl.float32)
            tl.store(sum_ptr + start + lane, x.to(sum_ptr.dtype.element_ty), inside)
        total += x
        parts = parts + (x,)  # type: ignore[assignment]
    mean = tl.sum(total) * (1.0 / D)
    squares = tl.zeros((PART,), tl.float32)
    for at in tl.static_range(0, D, PART):
        x = tl.where(at + lanes < D, parts[at // PART] - mean, 0.0)
        squares += x * x
    steepness = tl.rsqrt(tl.sum(squares) * (1.0 / D) + epsilon)
    most = tl.full((PART,), 1e-8, tl.float32)
    modulated = ()
    for at in tl.static_range(0, D, PART):
        lane = at + lanes
        inside = lane < D
        x = (parts[at // PART] - mean) * steepness
        x = x * tl.load(weight_ptr + lane, inside, other=0.0).to(tl.float32)
        x += tl.load(bias_ptr + lane, inside, other=0.0).to(tl.float32)
        x *= 1.0 + tl.load(after_ptr + D + lane, inside, other=0.0).to(tl.float32)
        x += tl.load(after_ptr + lane, inside, other=0.0).to(tl.float32)
        if EIGHT_BIT:
            most = tl.maximum(most, tl.abs(x))
            modulated = modulated + (x,)  # type: ignore[assignment]
        else:
            tl.store(output_ptr + start + lane, x.to(output_ptr.dtype.element_ty), inside)
    if EIGHT_BIT:
        largest = tl.max(most)
        tl.store(scale_ptr + row, largest * (1.0 / 448.0))
        shrink = 448.0 / largest
        for at in tl.static_range(0, D, PART):
            numbers = (modulated[at // PART] * shrink).to(output_ptr.dtype.element_ty)
            tl.store(output_ptr + start + at + lanes, numbers, at + lanes < D)


def plain_modulate(
    residual: Tensor, update: Tensor | None, before: Tensor, after: Tensor, weight: Tensor, bias: Tensor,
    text_length: int, epsilon: float, fp8: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return ``residual + gate x update``, its modulated LayerNorm, and its scales; the twin of `compiled_modulate`.

    ``residual`` and ``update`` are B S D with ``text_length`` text tokens first. The gate is that of the modulation
    ``before`` the norm, shift and scale are of the one ``after`` it; ``weight`` and ``bias`` are the norm's. Without an
    update the sum is empty. With ``fp8`` the norm is float8_e4m3fn with float32 scales B S, without them they are empty.
    """
    wide = wide_dtype(residual.dtype)
    x = residual.to(wide)
    if update is not None:
        x = x + _by_token(before[:, 2], residual, text_length).to(wide) * update.to(wide)
    shift, scale = (_by_token(after[:, index], x, text_length).to(wide) for index in (0, 1))
    normed = torch.nn.functional.layer_norm(x, x.shape[-1:], weight.to(wide), bias.to(wide), epsilon)
    modulated = normed * (1 + scale) + shift
    summed = residual.new_empty(0) if update is None else x.to(residual.dtype)
    if fp8:
        return summed, *quantise_rows(modulated)
    return summed, modulated.to(residual.dtype), _no_scales(residual)


def _by_token(rows: Tensor, tokens: Tensor, text_length: int) -> Tensor:
    """Return S x D: row 1 for the text, row 0 for the video."""
    return torch.cat([rows[1:].expand(text_length, -1), rows[:1].expand(tokens.shape[1] - text_length, -1)])


def _no_scales(tokens: Tensor) -> Tensor:
    return tokens.new_empty(0, dtype=torch.float32)


def launch_modulate(
    residual: Tensor, update: Tensor | None, before: Tensor, after: Tensor, weight: Tensor, bias: Tensor,
    text_length: int, epsilon: float, fp8: bool,
) -> tuple[Launch, tuple[Tensor, Tensor, Tensor]]:  # fmt: skip
    """Return the launch and its results."""
    batch, length, width = residual.shape
    dense = residual.contiguous()
    summed = residual.new_empty(0 if update is None else residual.shape)
    normed = residual.new_empty(residual.shape, dtype=torch.float8_e4m3fn if fp8 else residual.dtype)
    scales = residual.new_empty((batch, length), dtype=torch.float32) if fp8 else _no_scales(residual)
    inputs = dense, dense if update is None else update.contiguous(), before.contiguous(), after.contiguous()
    arguments = named(modulate_kernel, *inputs, weight, bias, summed, normed, scales, length, text_length, epsilon)
    constants = {"D": width, "PART": part_of(width), "UPDATED": update is not None, "EIGHT_BIT": fp8}
    launch = Launch(modulate_kernel, (batch * length,), arguments, constants, warps_of(width, 32))
    return launch, (summed, normed, scales)


compiled_modulate = compiled(launch_modulate)
modulate = operator(plain_modulate, compiled_modulate)


def _variant(dtype: str, width: int, updated: bool, eight_bit: bool) -> Variant:
    output = "fp8e4nv" if eight_bit else dtype
    pointers = dict.fromkeys(
        ("residual_ptr", "update_ptr", "before_ptr", "after_ptr", "weight_ptr", "bias_ptr", "sum_ptr"), f"*{dtype}"
    )
    signature = pointers | {"output_ptr": f"*{output}", "scale_ptr": "*fp32"}
    signature |= {"length": "i32", "text_length": "i32", "epsilon": "fp32"}
    constants = {"D": width, "PART": part_of(width), "UPDATED": updated, "EIGHT_BIT": eight_bit}
    name = f"modulate_{dtype}_{width}" + ("" if updated else "_first") + ("_8bit" if eight_bit else "")
    return Variant(name, modulate_kernel, signature, constants, warps_of(width, 32))


def variants(architecture: int) -> tuple[Variant, ...]:
    """Return the forms to compile: CogVideoX 5B's and 2B's widths, first or updated, 8-bit if the target has FP8."""
    precisions = (False, True) if architecture in FP8_ARCHITECTURES else (False,)
    return tuple(
        _variant("bf16", width, updated, eight_bit)
        for eight_bit in precisions
        for width in (3072, 1920)
        for updated in (True, False)
    )
