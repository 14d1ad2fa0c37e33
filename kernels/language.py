"""Triton where it is installed; without it the modules still import, and their plain twins run."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

try:
    import triton.language as tl
    from triton import jit

    AVAILABLE = True
except ImportError:
    tl = SimpleNamespace(constexpr=Any)
    AVAILABLE = False

    def jit(kernel: Callable[..., Any]) -> Any:
        """Return the kernel's source as it is: nothing can launch it."""
        return kernel


__all__ = ["AVAILABLE", "ceil_div", "jit", "power_of_two", "tl"]


def ceil_div(count: int, block: int) -> int:
    """Return how many blocks cover ``count``."""
    return -(-count // block)


def power_of_two(count: int) -> int:
    """Return the smallest power of two that is at least ``count``."""
    return 1 << max(count - 1, 0).bit_length()
