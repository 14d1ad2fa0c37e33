"""What a forward pass asks of memory: its operators counted, and the bytes that each reads and writes once.

On the meta device nothing is computed, so a full-size network is counted anywhere, the same on every machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, slots=True)
class Traffic:
    """Operators that move data, the bytes they move eagerly, and the bytes of those that are no matrix product."""

    operators: int
    moved_bytes: int
    elementwise_bytes: int


PRODUCTS = ("mm", "addmm", "bmm", "linear", "convolution", "scaled_dot_product", "dvgwm.attention", "library_attention")
"""Operators whose time is arithmetic: what remains is what fusion can save."""


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {id(leaf): leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)}
        results = {id(leaf): leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)}
        memories = {leaf.untyped_storage()._cdata for leaf in given.values()}
        views = bool(results) and all(leaf.untyped_storage()._cdata in memories for leaf in results.values())
        fills = func is torch.ops.aten.empty.memory_format or "new_empty" in str(func) or "empty_like" in str(func)
        if not fills and not (views and not func._schema.is_mutable):
            self.rows.append((str(func), sum(map(_bytes, given.values())) + sum(map(_bytes, results.values()))))
        return made


class _Attention(TorchFunctionMode):
    """Attention as the one fused operator that it is on a GPU; on the meta device torch would take it apart."""

    def __init__(self, rows: list[tuple[str, int]]) -> None:
        super().__init__()
        self.rows = rows

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        self.rows.append(("scaled_dot_product", 2 * _bytes(query) + _bytes(key) + _bytes(value)))
        return torch.empty_like(query)


def _bytes(tensor: Tensor) -> int:
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1  # an expanded axis is read from one place
    return count * tensor.element_size()


def traffic(module: Any, *inputs: Any, **named: Any) -> Traffic:
    """Return what one eager forward of ``module`` on these inputs (meta tensors) moves."""
    counter = _Counter()
    with torch.no_grad(), _Attention(counter.rows), counter:
        module(*inputs, **named)
    total = sum(size for _, size in counter.rows)
    products = sum(size for name, size in counter.rows if any(word in name for word in PRODUCTS))
    return Traffic(len(counter.rows), total, total - products)
