"""`attention` for Hopper: blocks are moved by the tensor memory accelerator, loads and products have warps of their own.

Triton splits the loop into one part to load and two to multiply. It does so only if there is no other loop: the mask of
the last block is in it, for all blocks. Only a measurement on the GPU can tell the gain (`attention.FORMS`).
"""

from torch import Tensor

from .attention_form import STRIDES, absorb, arguments_of, signature_of
from .language import ceil_div, jit, tl
from .launch import Launch
from .variant import Variant

ARCHITECTURES = (90,)
TILE = 128, 128, 4, 2
"""Rows, columns, warps of one part and stages of a block; Triton leaves other numbers of warps unsplit, and says nothing."""


@jit
def attention_tma_kernel(
    query_ptr, key_ptr, value_ptr, output_ptr, heads, length, keys, scale_log2, shift_log2,
    query_b, query_h, query_s, key_b, key_h, key_s, value_b, value_h, value_s, output_b, output_h, output_s,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, FIXED: tl.constexpr,
):  # fmt: skip
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    row, column = tl.program_id(0) * BLOCK_M, tl.arange(0, BLOCK_N)
    query_ptr += batch * query_b + head * query_h
    key_ptr += batch * key_b + head * key_h
    value_ptr += batch * value_b + head * value_h
    output_ptr += batch * output_b + head * output_h
    # What lies beyond a descriptor's shape is read as zero and not written.
    queries = tl.make_tensor_descriptor(query_ptr, [length, D], [query_s, 1], [BLOCK_M, D])
    key_blocks = tl.make_tensor_descriptor(key_ptr, [keys, D], [key_s, 1], [BLOCK_N, D])
    value_blocks = tl.make_tensor_descriptor(value_ptr, [keys, D], [value_s, 1], [BLOCK_N, D])
    outputs = tl.make_tensor_descriptor(output_ptr, [length, D], [output_s, 1], [BLOCK_M, D])
    query = queries.load([row, 0])
    largest = tl.full((BLOCK_M,), -1e30, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    mixed = tl.zeros((BLOCK_M, D), tl.float32)
    for at in tl.range(0, keys, BLOCK_N, warp_specialize=True):
        scores = tl.dot(query, key_blocks.load([at, 0]).T)
        scores = tl.where((at + column < keys)[None, :], scores, -float("inf"))
        value = value_blocks.load([at, 0])
        largest, total, mixed = absorb(scores, value, largest, total, mixed, scale_log2, shift_log2, FIXED)
    outputs.store([row, 0], (mixed / total[:, None]).to(output_ptr.dtype.element_ty))


def launch_attention_tma(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bound: float | None
) -> tuple[Launch, Tensor]:
    """Return the launch and its result; arguments as of `attention.plain_attention`.

    Rows have to begin at multiples of 16 bytes.
    """
    batch, heads, length, width = query.shape
    arguments, fixed, output = arguments_of(attention_tma_kernel, query, key, value, scale, bound)
    block_m, block_n, warps, stages = TILE
    constants = {"D": width, "BLOCK_M": block_m, "BLOCK_N": block_n, "FIXED": fixed}
    grid = ceil_div(length, block_m), batch * heads
    return Launch(attention_tma_kernel, grid, arguments, constants, warps, stages, needs_scratch=True), output


def variants(architecture: int) -> tuple[Variant, ...]:
    """Return the forms to compile: dtypes, at head width 64, and the shift of `attention_form.fixed_shift`."""
    if architecture not in ARCHITECTURES:
        return ()
    block_m, block_n, warps, stages = TILE
    return tuple(
        Variant(
            f"attention_tma_{dtype}_d64" + ("_fixed" if fixed else ""), attention_tma_kernel, signature_of(dtype),
            {"D": 64, "BLOCK_M": block_m, "BLOCK_N": block_n, "FIXED": fixed}, warps, stages, STRIDES, matrix=True,
        )
        for dtype, fixed in (("bf16", False), ("fp16", False), ("bf16", True))
    )  # fmt: skip
