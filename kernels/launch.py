"""One launch of a kernel as a value: started on the spot by Triton's compiler, or told to who launches the shipped cubins."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from .variant import MADE, Variant

TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int8: "*i8",
    torch.float8_e4m3fn: "*fp8e4nv",
}


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel, its grid, its arguments in their order, and its compiled-in constants."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    warps: int
    stages: int = 3
    registers: int | None = None
    """The most for a thread, None for as many as it wants."""
    needs_scratch: bool = False
    """True for a kernel with descriptors: these lie in memory from its launcher."""

    def start(self) -> None:
        """Compile the kernel if it is not yet compiled, and launch it on torch's stream."""
        if self.needs_scratch:
            _give_scratch()
        options = {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers, **MADE}
        self.kernel[self.grid](**self.arguments, **self.constants, **options)

    def shipped(self, variants: Sequence[Variant]) -> tuple[str, tuple[int, int, int], dict[str, Any]]:
        """Return name, grid and arguments for `runtime.backends.cuda`, tensors as their addresses.

        The variant is the one of ``variants`` with these constants and the best fit of pointers; unused ones may have any type.
        Raises ValueError if none has them.
        """
        known = {**self.arguments, **self.constants}

        def fitting(variant: Variant) -> int:
            pointers = [(known[name], kind) for name, kind in variant.signature.items() if kind.startswith("*")]
            return sum(TYPES[tensor.dtype] == kind for tensor, kind in pointers)

        same = [
            variant
            for variant in variants
            if variant.kernel is self.kernel
            and all(known[name] == value for name, value in variant.constants.items())
            and TYPES[next(iter(known.values())).dtype] == next(iter(variant.signature.values()))
        ]
        if not same:
            raise ValueError(f"no shipped kernel has the constants {dict(self.constants)} and the types of this launch")
        best = max(same, key=fitting)
        arguments = {
            name: value.data_ptr() if isinstance(value, Tensor) else value
            for name, value in self.arguments.items()
            if name in best.signature
        }
        x, y, z = (*self.grid, 1, 1)[:3]
        return best.name, (x, y, z), arguments


def _give_scratch() -> None:
    """Have Triton take the memory of descriptors from torch: its allocator knows streams and captures."""
    import triton

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device))


def compiled(launch: Callable[..., tuple[Launch | tuple[Launch, ...], Any]]) -> Callable[..., Any]:
    """Return an operator on CUDA: it starts the launches of ``launch``, and gives their result."""

    @wraps(launch)
    def start(*arguments: Any, **options: Any) -> Any:
        launches, written = launch(*arguments, **options)
        for each in (launches,) if isinstance(launches, Launch) else launches:
            each.start()
        return written

    return start


def named(kernel: Any, *values: Any) -> dict[str, Any]:
    """Return ``values`` under the names of the kernel's first arguments."""
    return dict(zip(kernel.arg_names, values, strict=False))
