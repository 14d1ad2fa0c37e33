"""Tokens to FP8 with one scale each, in one pass, with or without the GELU before it."""

import torch
from torch import Tensor

from .language import jit, tanh, tl
from .launch import Launch, compiled, named
from .operator import operator, wide_dtype
from .row import part_of, warps_of
from .variant import FP8_ARCHITECTURES, Variant

LARGEST = 448.0
"""The largest float8_e4m3fn."""


@jit
def quantise_kernel(x_ptr, output_ptr, scale_ptr, D: tl.constexpr, PART: tl.constexpr, GELU: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * D
    output_ptr += row * D
    lanes = tl.arange(0, PART)
    unit = 2.0 if GELU else 1.0
    most = tl.full((PART,), 1e-8 * unit, tl.float32)
    parts = ()
    for at in tl.static_range(0, D, PART):
        x = tl.load(x_ptr + at + lanes, at + lanes < D, other=0.0).to(tl.float32)
        if GELU:  # twice as much as GELU: the scale halves it, once a row
            x += x * tanh(x * (0.7978845608028654 + 0.035677408136300125 * x * x))
        most = tl.maximum(most, tl.abs(x))
        parts = parts + (x,)  # type: ignore[assignment]
    largest = tl.max(most)
    tl.store(scale_ptr + row, largest * (1.0 / (448.0 * unit)))
    shrink = 448.0 / largest
    for at in tl.static_range(0, D, PART):
        numbers = (parts[at // PART] * shrink).to(output_ptr.dtype.element_ty)
        tl.store(output_ptr + at + lanes, numbers, at + lanes < D)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x`` as float8_e4m3fn and its float32 scales, one per row of the last axis."""
    wide = x.to(wide_dtype(x.dtype))
    scale = wide.abs().amax(-1).clamp_min(1e-8) / LARGEST
    return (wide / scale[..., None]).to(torch.float8_e4m3fn), scale.float()


def plain_quantise(x: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    """Return ``x`` (B S D), after the tanh form of GELU if asked, as float8_e4m3fn and float32 scales B S.

    The twin of `compiled_quantise`.
    """
    wide = x.to(wide_dtype(x.dtype))
    return quantise_rows(torch.nn.functional.gelu(wide, approximate="tanh") if gelu else wide)


def launch_quantise(x: Tensor, gelu: bool) -> tuple[Launch, tuple[Tensor, Tensor]]:
    """Return the launch and its results."""
    width = x.shape[-1]
    output = x.new_empty(x.shape, dtype=torch.float8_e4m3fn)
    scale = x.new_empty(x.shape[:-1], dtype=torch.float32)
    constants = {"D": width, "PART": part_of(width), "GELU": gelu}
    arguments = named(quantise_kernel, x.contiguous(), output, scale)
    return Launch(quantise_kernel, (x.numel() // width,), arguments, constants, warps_of(width, 64)), (output, scale)


compiled_quantise = compiled(launch_quantise)
quantise = operator(plain_quantise, compiled_quantise)


def variants(architecture: int) -> tuple[Variant, ...]:
    """Return the forms to compile: attention's and the feed-forward's widths of CogVideoX 5B and 2B."""
    if architecture not in FP8_ARCHITECTURES:
        return ()
    signature = {"x_ptr": "*bf16", "output_ptr": "*fp8e4nv", "scale_ptr": "*fp32"}
    return tuple(
        Variant(
            f"quantise_bf16_{width}" + ("_gelu" if gelu else ""),
            quantise_kernel,
            signature,
            {"D": width, "PART": part_of(width), "GELU": gelu},
            warps_of(width, 64),
        )
        for width, gelu in ((3072, False), (1920, False), (12288, True), (7680, True))
    )
