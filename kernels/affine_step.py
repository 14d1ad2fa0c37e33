"""One row of any sampler's table in one pass: ``x <- a x + b v + c h + d xi``, ``h <- p x + q v``.

``v = v_u + guidance (v_c - v_u)`` is the network's output after guidance; with a clip the first x is
``clamp(a0 x + b0 v, -limit, limit)``. It is `runtime.sampler.advance` for any dtype, in float32 inside.
"""

from typing import Any

from torch import Tensor

from .language import ceil_div, jit, tl
from .operator import inner, operator
from .variant import Variant

BLOCK, WARPS = 1024, 4
GUIDED, HISTORY, NOISE = 1, 2, 4
"""Bits of the kernel's ``flags``."""


@jit
def affine_kernel(
    state_ptr, velocity_ptr, history_ptr, noise_ptr, count, flags, a, b, c, d, p, q, guidance, limit, a0, b0,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if tl.program_id(0) * BLOCK + BLOCK <= count:  # full blocks without a mask, whose loads are vectors for any count
        x = tl.load(state_ptr + at).to(tl.float32)
        v = tl.load(velocity_ptr + at).to(tl.float32)
        if flags & 1:
            v += guidance * (tl.load(velocity_ptr + count + at).to(tl.float32) - v)
        base = tl.maximum(a0 * x + b0 * v, -limit, propagate_nan=tl.PropagateNan.ALL)
        moved = a * tl.minimum(base, limit, propagate_nan=tl.PropagateNan.ALL) + b * v
        if flags & 2:
            moved += c * tl.load(history_ptr + at).to(tl.float32)
            tl.store(history_ptr + at, (p * x + q * v).to(history_ptr.dtype.element_ty))
        if flags & 4:
            moved += d * tl.load(noise_ptr + at).to(tl.float32)
        tl.store(state_ptr + at, moved.to(state_ptr.dtype.element_ty))
    else:
        inside = at < count
        x = tl.load(state_ptr + at, inside, other=0.0).to(tl.float32)
        v = tl.load(velocity_ptr + at, inside, other=0.0).to(tl.float32)
        if flags & 1:
            v += guidance * (tl.load(velocity_ptr + count + at, inside, other=0.0).to(tl.float32) - v)
        base = tl.maximum(a0 * x + b0 * v, -limit, propagate_nan=tl.PropagateNan.ALL)
        moved = a * tl.minimum(base, limit, propagate_nan=tl.PropagateNan.ALL) + b * v
        if flags & 2:
            moved += c * tl.load(history_ptr + at, inside, other=0.0).to(tl.float32)
            tl.store(history_ptr + at, (p * x + q * v).to(history_ptr.dtype.element_ty), inside)
        if flags & 4:
            moved += d * tl.load(noise_ptr + at, inside, other=0.0).to(tl.float32)
        tl.store(state_ptr + at, moved.to(state_ptr.dtype.element_ty), inside)


def plain_affine_step(
    state: Tensor,
    velocity: Tensor,
    history: Tensor | None,
    noise: Tensor | None,
    a: float,
    b: float,
    c: float,
    d: float,
    p: float,
    q: float,
    guidance: float,
    limit: float,
    a0: float,
    b0: float,
) -> None:
    """Advance ``state`` and ``history`` in place; the twin of `compiled_affine_step`.

    ``velocity`` has the state's leading size, or twice that with the unconditional half first. Any floating dtypes.
    Without a clip ``limit`` is infinite, ``a0`` 1 and ``b0`` 0.
    """
    wide = inner(state.dtype, velocity.dtype)
    x, v = state.to(wide), velocity.to(wide)
    if velocity.shape[0] == 2 * state.shape[0]:
        empty, full = v.chunk(2)
        v = empty + guidance * (full - empty)
    moved = a * (a0 * x + b0 * v).clamp(-limit, limit) + b * v
    if history is not None:
        moved = moved + c * history.to(wide)
        history.copy_(p * x + q * v)
    if noise is not None:
        moved = moved + d * noise.to(wide)
    state.copy_(moved)


def compiled_affine_step(
    state: Tensor,
    velocity: Tensor,
    history: Tensor | None,
    noise: Tensor | None,
    a: float,
    b: float,
    c: float,
    d: float,
    p: float,
    q: float,
    guidance: float,
    limit: float,
    a0: float,
    b0: float,
) -> None:
    """`plain_affine_step` as one kernel; strided tensors are copied first."""
    dense = state.contiguous()
    velocity = velocity.contiguous()
    if velocity.shape[0] not in (state.shape[0], 2 * state.shape[0]):
        velocity = velocity.expand_as(state).contiguous()
    past = history.contiguous() if history is not None else None
    flags = (GUIDED if velocity.shape[0] == 2 * state.shape[0] else 0) | (HISTORY if past is not None else 0)
    flags |= NOISE if noise is not None else 0
    xi = noise.contiguous() if noise is not None else dense
    count = dense.numel()
    affine_kernel[(ceil_div(count, BLOCK),)](
        dense, velocity, dense if past is None else past, xi, count, flags, a, b, c, d, p, q, guidance, limit, a0, b0,
        BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    if dense is not state:
        state.copy_(dense)
    if history is not None and past is not None and past is not history:
        history.copy_(past)


def _fake(*arguments: Any, **options: Any) -> None:
    """Change nothing's shape."""


affine_step = operator(plain_affine_step, compiled_affine_step, _fake, mutates=("state", "history"))


def _variant(state: str, velocity: str) -> Variant:
    pointers = {"state_ptr": f"*{state}", "velocity_ptr": f"*{velocity}", "history_ptr": "*fp32", "noise_ptr": "*fp32"}
    scalars = dict.fromkeys(("a", "b", "c", "d", "p", "q", "guidance", "limit", "a0", "b0"), "fp32")
    signature = pointers | {"count": "i32", "flags": "i32"} | scalars
    return Variant(f"affine_step_{state}_{velocity}", affine_kernel, signature, {"BLOCK": BLOCK}, WARPS)


def variants(architecture: int) -> tuple[Variant, ...]:
    """Return the forms to compile: the state's and the velocity's dtype; history and noise are float32."""
    return tuple(_variant(*pair) for pair in (("fp32", "fp32"), ("fp32", "fp16"), ("fp32", "bf16"), ("bf16", "bf16")))


def bytes_moved(state: Tensor, velocity: Tensor, history: Tensor | None, noise: Tensor | None) -> int:
    """Return the fewest bytes that one call has to move."""
    size = 2 * state.nbytes + velocity.nbytes
    return size + (2 * history.nbytes if history is not None else 0) + (noise.nbytes if noise is not None else 0)
