"""Non-causal attention of any length, online softmax in float32 (FlashAttention).

Whole blocks of keys run without a mask; the tail is peeled. The library's own attention stays the default of every precision
without ``_kernel`` in its name; the form of ours for a GPU is the fastest that was measured there (`FORMS`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .attention_form import STRIDES, absorb, arguments_of, signature_of
from .attention_tma import launch_attention_tma
from .language import ceil_div, jit, tl
from .launch import Launch, compiled
from .operator import operator
from .variant import Variant


@dataclass(frozen=True, slots=True)
class Form:
    """A way to run: ``loads`` by "pointers" or "tma", and with a ``fixed`` shift if scores are bounded."""

    loads: str = "pointers"
    fixed: bool = False


FORMS: Mapping[int, Form] = MappingProxyType({90: Form()})
"""The fastest form on an architecture; others run `Form()`, the kernel below.

sm_90: on an H200 426 TFLOP/s at the preview's size and 441 at the refiner's, cuDNN 429 and 434; "tma" and fixed shifts are not
measured yet.
"""
PREFERENCE = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@jit
def attention_kernel(
    query_ptr, key_ptr, value_ptr, output_ptr, heads, length, keys, scale_log2, shift_log2,
    query_b, query_h, query_s, key_b, key_h, key_s, value_b, value_h, value_s, output_b, output_h, output_s,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, FIXED: tl.constexpr,
):  # fmt: skip
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    row, lane, column = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, D), tl.arange(0, BLOCK_N)
    rows = (row < length)[:, None]
    query_ptr += batch * query_b + head * query_h
    key_ptr += batch * key_b + head * key_h + lane[:, None] + column[None, :] * key_s
    value_ptr += batch * value_b + head * value_h + column[:, None] * value_s + lane[None, :]
    query = tl.load(query_ptr + row[:, None] * query_s + lane[None, :], rows, other=0.0)
    largest = tl.full((BLOCK_M,), -1e30, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    mixed = tl.zeros((BLOCK_M, D), tl.float32)
    whole = keys // BLOCK_N * BLOCK_N
    for _ in range(0, whole, BLOCK_N):
        largest, total, mixed = attend(
            query, key_ptr, value_ptr, column, keys, largest, total, mixed, scale_log2, shift_log2, FIXED, False
        )
        key_ptr += BLOCK_N * key_s
        value_ptr += BLOCK_N * value_s
    if whole < keys:
        column += whole
        largest, total, mixed = attend(
            query, key_ptr, value_ptr, column, keys, largest, total, mixed, scale_log2, shift_log2, FIXED, True
        )
    mixed = mixed / total[:, None]
    output_ptr += batch * output_b + head * output_h + row[:, None] * output_s + lane[None, :]
    tl.store(output_ptr, mixed.to(output_ptr.dtype.element_ty), rows)


@jit
def attend(
    query, key_ptr, value_ptr, column, keys, largest, total, mixed, scale_log2, shift_log2,
    FIXED: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """One block of keys and values; of the ``TAIL`` its part before ``keys``."""
    inside = column < keys
    scores = tl.dot(query, tl.load(key_ptr, inside[None, :], other=0.0) if TAIL else tl.load(key_ptr))
    if TAIL:
        scores = tl.where(inside[None, :], scores, -float("inf"))
    value = tl.load(value_ptr, inside[:, None], other=0.0) if TAIL else tl.load(value_ptr)
    return absorb(scores, value, largest, total, mixed, scale_log2, shift_log2, FIXED)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, bound: float | None) -> Tensor:
    """Return ``softmax(scale Q K^T) V``, B S H D; the twin of `compiled_attention`.

    ``query`` is B H S D, ``key`` and ``value`` B H N D, of one dtype, with any strides but the last: 1. No score
    ``scale q k`` is larger than ``bound``, None if nothing is known of them: it allows a form, and changes no result.
    """
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
    return mixed.transpose(1, 2).contiguous()


def launch_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bound: float | None
) -> tuple[Launch, Tensor]:
    """Return the launch and its result."""
    batch, heads, length, width = query.shape
    arguments, fixed, output = arguments_of(attention_kernel, query, key, value, scale, bound)
    block_m, block_n, warps, stages = tile(capability(query), width)
    constants = {"D": width, "BLOCK_M": block_m, "BLOCK_N": block_n, "FIXED": fixed}
    grid = ceil_div(length, block_m), batch * heads
    return Launch(attention_kernel, grid, arguments, constants, warps, stages), output


def plain_library_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return `plain_attention` from the library; the twin of `preferred_library_attention`."""
    return plain_attention(query, key, value, scale, None)


def preferred_library_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """`plain_attention` by cuDNN if it takes the shape: on Hopper torch's own first choice is slower."""
    with sdpa_kernel(PREFERENCE, set_priority=True):
        return plain_attention(query, key, value, scale, None)


def launch_fastest_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bound: float | None
) -> tuple[Launch, Tensor]:
    """Return the launch of the form in `FORMS` for the tensors' GPU, and its result."""
    form = FORMS.get(capability(query), Form()) if query.is_cuda and query.shape[-1] == 64 else Form()
    launch = launch_attention_tma if form.loads == "tma" else launch_attention
    return launch(query, key, value, scale, bound if form.fixed else None)


compiled_attention = compiled(launch_fastest_attention)
attention = operator(plain_attention, compiled_attention)
library_attention = operator(plain_library_attention, preferred_library_attention)


def capability(tensor: Tensor) -> int:
    """Return the tensor's GPU as a number such as 90; 80 for tensors elsewhere (Triton's interpreter)."""
    if not tensor.is_cuda:
        return 80
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def tile(architecture: int, width: int) -> tuple[int, int, int, int]:
    """Return rows, columns, warps and stages of a block, as they fit the target's shared memory and registers."""
    if architecture in (90, 100):
        return 128, 64, 8, 3  # at width 64 .98 to 1.02 of cuDNN's rate on an H200, where 128 columns are .83 to .88
    if architecture == 80:
        return (128, 64, 4, 3) if width == 64 else (128, 64, 8, 3)
    if width == 64:
        return 128, 64, 8 if architecture == 120 else 4, 3
    return 128, 32, 8, 3


def _variant(dtype: str, width: int, architecture: int, fixed: bool) -> Variant:
    block_m, block_n, warps, stages = tile(architecture, width)
    constants = {"D": width, "BLOCK_M": block_m, "BLOCK_N": block_n, "FIXED": fixed}
    name = f"attention_{dtype}_d{width}" + ("_fixed" if fixed else "")
    return Variant(name, attention_kernel, signature_of(dtype), constants, warps, stages, STRIDES, matrix=True)


def variants(architecture: int) -> tuple[Variant, ...]:
    """Return the forms to compile: dtype, head width, and the shift of `attention_form.fixed_shift`."""
    return tuple(
        _variant(dtype, width, architecture, fixed)
        for dtype, fixed in (("bf16", False), ("fp16", False), ("bf16", True))
        for width in (64, 128)
    )
