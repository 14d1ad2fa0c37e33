"""Tokens to FP8 with one scale each, in one pass, with or without the GELU before it."""

import torch
from torch import Tensor

from .language import jit, power_of_two, tl
from .launch import Launch, compiled, named
from .operator import operator, wide_dtype
from .variant import FP8_ARCHITECTURES, Variant

LARGEST = 448.0
"""The largest float8_e4m3fn."""


@jit
def quantise_kernel(x_ptr, output_ptr, scale_ptr, D: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    inside = lane < D
    x = tl.load(x_ptr + row * D + lane, inside, other=0.0).to(tl.float32)
    if GELU:  # tanh(u) = 1 - 2 / (exp(2 u) + 1), twice the usual sqrt(2 / pi) inside
        x = x * (1.0 - 1.0 / (tl.exp(1.5957691216057308 * (x + 0.044715 * x * x * x)) + 1.0))
    scale = tl.maximum(tl.max(tl.abs(x)), 1e-8) / 448.0
    tl.store(scale_ptr + row, scale)
    tl.store(output_ptr + row * D + lane, (x / scale).to(output_ptr.dtype.element_ty), inside)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x`` as float8_e4m3fn and its float32 scales, one per row of the last axis."""
    wide = x.to(wide_dtype(x.dtype))
    scale = wide.abs().amax(-1).clamp_min(1e-8) / LARGEST
    return (wide / scale[..., None]).to(torch.float8_e4m3fn), scale.float()


def plain_quantise(x: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
    """Return ``x`` (B S D), after the tanh form of GELU where asked, as float8_e4m3fn and float32 scales B S.

    The twin of `compiled_quantise`.
    """
    wide = x.to(wide_dtype(x.dtype))
    return quantise_rows(torch.nn.functional.gelu(wide, approximate="tanh") if gelu else wide)


def launch_quantise(x: Tensor, gelu: bool) -> tuple[Launch, tuple[Tensor, Tensor]]:
    """Return the launch and what it writes."""
    width = x.shape[-1]
    output = x.new_empty(x.shape, dtype=torch.float8_e4m3fn)
    scale = x.new_empty(x.shape[:-1], dtype=torch.float32)
    constants = {"D": width, "BLOCK": power_of_two(width), "GELU": gelu}
    arguments = named(quantise_kernel, x.contiguous(), output, scale)
    return Launch(quantise_kernel, (x.numel() // width,), arguments, constants, _warps(width)), (output, scale)


def _warps(width: int) -> int:
    return 16 if width > 8192 else 8 if width > 2048 else 4


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
            {"D": width, "BLOCK": power_of_two(width), "GELU": gelu},
            _warps(width),
        )
        for width, gelu in ((3072, False), (1920, False), (12288, True), (7680, True))
    )
