"""Output buffers of an engine: made once per set of shapes, two sets in turn where outputs are carried."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..types import Tensor, TensorSpec
from .backend import EngineSpec


def check_inputs(spec: EngineSpec, tensors: Mapping[str, Tensor]) -> None:
    """Return if ``tensors`` are just the inputs of ``spec``; raise `ShapeError` if not."""
    expected, got = [item.name for item in spec.inputs], sorted(tensors)
    if sorted(expected) != got:
        raise ShapeError("ENGINE_INPUTS", f"{spec.file}: wanted inputs {', '.join(expected)}, got {', '.join(got)}")
    for item in spec.inputs:
        item.check(tensors[item.name])


class Buffers:
    """Hands out the output arrays of one engine, which ``empty`` makes of a shape and a dtype.

    Plain outputs are overwritten by the next run. Carried ones alternate between two sets, so that the last run's
    outputs can be the next run's inputs.
    """

    def __init__(self, spec: EngineSpec, empty: Callable[[Any, Any], Tensor] = np.empty) -> None:
        self._spec, self._new = spec, empty
        self._sets: dict[tuple[int, ...], tuple[dict[str, Tensor], ...]] = {}
        self._turn = 0

    def next(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the arrays to write to for these inputs."""
        sizes = _sizes(self._spec.inputs, inputs)
        key = tuple(sizes.values())
        if key not in self._sets:
            first = {item.name: self._empty(item, sizes) for item in self._spec.outputs}
            second = {
                item.name: self._empty(item, sizes) if item.name in self._spec.carry else first[item.name]
                for item in self._spec.outputs
            }
            self._sets[key] = (first, second)
        self._turn ^= 1
        return self._sets[key][self._turn]

    def _empty(self, spec: TensorSpec, sizes: Mapping[str, int]) -> Tensor:
        return self._new([sizes[size] if isinstance(size, str) else size for size in spec.shape], spec.dtype)


def _sizes(specs: tuple[TensorSpec, ...], tensors: Mapping[str, Tensor]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for spec in specs:
        for want, got in zip(spec.shape, tensors[spec.name].shape, strict=True):
            if isinstance(want, str) and sizes.setdefault(want, got) != got:
                raise ShapeError("ENGINE_SIZES", f"{spec.name}: size {want} is {sizes[want]} elsewhere, {got} here")
    return sizes
