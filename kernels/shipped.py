"""What a call of our operators launches, told as the shipped kernels' names, grids and arguments."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .aot import MODULES
from .variant import Variant

TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int8: "*i8",
    torch.float8_e4m3fn: "*fp8e4nv",
}


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a shipped kernel: arguments by name for `runtime.cuda`; tensors are kept so that addresses stay good."""

    name: str
    grid: tuple[int, int, int]
    values: dict[str, Any]
    tensors: tuple[Tensor, ...]


def launches(work: Callable[[], Any], architecture: int) -> tuple[list[Launch], Any]:
    """Return what ``work`` (calls of compiled kernels) would launch on ``architecture``, and its result, unwritten.

    Nothing is launched. Raises ValueError where no kernel is shipped for a call's dtypes and constants.
    """
    seen: list[Launch] = []
    with ExitStack() as stack:
        for module in MODULES:
            stack.enter_context(_recording(module, architecture, seen))
        result = work()
    return seen, result


@contextmanager
def _recording(module: ModuleType, architecture: int, seen: list[Launch]) -> Iterator[None]:
    variants = module.variants(architecture)
    kernels = {name: value for name, value in vars(module).items() if any(v.kernel is value for v in variants)}
    for name, kernel in kernels.items():
        setattr(module, name, _Recorder(kernel, [v for v in variants if v.kernel is kernel], seen))
    try:
        yield
    finally:
        for name, kernel in kernels.items():
            setattr(module, name, kernel)


class _Recorder:
    """A kernel that notes how it would be launched."""

    def __init__(self, kernel: Any, variants: Sequence[Variant], seen: list[Launch]) -> None:
        self.names = list(inspect.signature(kernel.fn).parameters)
        self.variants, self.seen = variants, seen

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*given: Any, **options: Any) -> None:
            bound = dict(zip(self.names, given, strict=False)) | options
            variant = self._variant(bound)
            values = {name: bound[name] for name in variant.signature}
            tensors = tuple(value for value in values.values() if isinstance(value, Tensor))
            numbers = {n: value.data_ptr() if isinstance(value, Tensor) else value for n, value in values.items()}
            self.seen.append(Launch(variant.name, (*grid, 1, 1)[:3], numbers, tensors))  # type: ignore[arg-type]

        return launch

    def _variant(self, bound: dict[str, Any]) -> Variant:
        """Return the variant with these constants whose pointers fit best: unused ones may be of any type."""

        def fitting(variant: Variant) -> int:
            pointers = [(bound[name], kind) for name, kind in variant.signature.items() if kind.startswith("*")]
            return sum(TYPES[tensor.dtype] == kind for tensor, kind in pointers)

        same = [v for v in self.variants if all(bound[name] == value for name, value in v.constants.items())]
        same = [v for v in same if TYPES[bound[next(iter(v.signature))].dtype] == next(iter(v.signature.values()))]
        if not same:
            raise ValueError(f"no shipped kernel of {self.names[0]} ... for {bound}")
        return max(same, key=fitting)
