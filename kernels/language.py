"""Triton where it is installed; without it the modules still import, and their plain twins run."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

try:
    import triton.language as tl
    from triton import jit, knobs

    AVAILABLE = True
    INTERPRETED = bool(knobs.runtime.interpret)
except ImportError:
    tl = SimpleNamespace(constexpr=Any)
    AVAILABLE = INTERPRETED = False

    def jit(kernel: Callable[..., Any]) -> Any:
        """Return the kernel's source as it is: nothing can launch it."""
        return kernel


__all__ = ["AVAILABLE", "ceil_div", "jit", "power_of_two", "tanh", "tl"]


@jit
def tanh_of_the_gpu(x):
    """Return tanh from the GPU's own unit, within 2^-11 of its size (PTX ISA, ``tanh.approx``)."""
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@jit
def tanh_of_exp(x):
    """Return tanh from exp: the interpreter knows no instruction of a GPU."""
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


tanh = tanh_of_exp if INTERPRETED else tanh_of_the_gpu


def ceil_div(count: int, block: int) -> int:
    """Return how many blocks cover ``count``."""
    return -(-count // block)


def power_of_two(count: int) -> int:
    """Return the smallest power of two that is at least ``count``."""
    return 1 << max(count - 1, 0).bit_length()
