"""How far a result may be from torch in float32, and the gates that judge it: every number, and another seed as a control."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvgwm.runtime.bundle.manifest import Parity
from dvgwm.runtime.errors import DvgwmError


@dataclass(frozen=True, slots=True)
class Gate:
    """How far an engine and a whole plan may be from torch in float32, in ``measure`` (max_abs or relative_l2).

    ``engine`` is per dtype of the output, a max_abs of float32 for numbers up to 1; ``control`` is how many tolerances
    another seed has to be away, or the check would pass on a stale buffer.
    """

    measure: str
    engine: Mapping[str, float]
    plan: float
    control: float


LOSSLESS = Gate("max_abs", {"float32": 1e-4, "uint8": 1.0}, 1e-3, 10.0)
"""float32: frames may be one of 255 levels off where rounding falls apart; actions are a share of their range."""
FLOAT16 = Gate("relative_l2", {"float32": 0.01, "uint8": 0.01}, 0.05, 3.0)
"""A cosine of at least 0.9999 for every engine."""
BFLOAT16 = Gate("relative_l2", {"float32": 0.045, "uint8": 0.045}, 0.15, 1.5)
"""A cosine of at least 0.999 for every engine; a plan's errors add up over its steps."""
FP8 = Gate("relative_l2", {"float32": 0.14, "uint8": 0.14}, 0.3, 1.5)
"""A cosine of at least 0.99 for every engine."""
_GATES = {"float32": LOSSLESS, "float16": FLOAT16, "bfloat16": BFLOAT16, "int8": BFLOAT16, "fp8": FP8}


def gate_of(precision: str) -> Gate:
    """Return the gate that the precision of this name has to pass."""
    return _GATES[precision.split("_")[0]]


ROW = 1 << 22
"""Numbers that are compared at a time: a VAE's cache is gigabytes."""


class ParityError(DvgwmError, ArithmeticError, exit_code=32):
    """An engine that does not compute what its torch module computes."""


def tolerance(limits: Gate, expected: Iterable[NDArray[Any]]) -> float:
    """Return what ``limits`` allow an engine whose outputs, of one dtype, are ``expected``: rounding grows with the numbers."""
    largest: dict[str, float] = {}
    for array in expected:
        largest[str(array.dtype)] = max(largest.get(str(array.dtype), 1.0), float(np.abs(array).max()))
    ((dtype, number),) = largest.items()
    return limits.engine[dtype] * (number if limits.measure == "max_abs" and dtype == "float32" else 1.0)


def gate(
    name: str,
    expected: list[NDArray[Any]],
    got: list[NDArray[Any]],
    other: list[NDArray[Any]],
    limits: Gate,
    tolerance: float,
) -> Parity:
    """Return how far ``got``, and ``other`` (another seed), are from ``expected`` over all tensors; raises as `judge`."""
    return judge(name, distances(expected, got), distances(expected, other), limits, tolerance)


def judge(
    name: str, distance: Mapping[str, float], control: Mapping[str, float], limits: Gate, tolerance: float
) -> Parity:
    """Return the ``distance`` of a result from what is expected, and that of another seed's.

    Raises `ParityError` where the first is over ``tolerance`` or the second too small to prove anything.
    """
    parity = Parity(
        max_abs=distance["max_abs"],
        relative_l2=distance["relative_l2"],
        cosine=distance["cosine"],
        tolerance=tolerance,
        control=control[limits.measure],
        measure=limits.measure,
    )
    if not distance[limits.measure] <= tolerance:
        raise ParityError(
            "PARITY",
            f"{name}: wanted a {limits.measure} error of at most {tolerance:g}, got {distance[limits.measure]:.3g}; "
            "not written",
        )
    if not parity.control > limits.control * tolerance:
        raise ParityError(
            "PARITY_CONTROL",
            f"{name}: another seed changed the result by {parity.control:.3g} only, so the check proves nothing",
        )
    return parity


def distances(left: Iterable[NDArray[Any]], right: Iterable[NDArray[Any]]) -> dict[str, float]:
    """Return how far all numbers of ``right`` are from those of ``left``, in three measures."""
    largest, squares = 0.0, np.zeros(4)
    for a, b in _rows(left, right):
        difference = b - a
        largest = np.maximum(largest, np.abs(difference).max())  # NaN stays
        squares += difference @ difference, a @ a, b @ b, a @ b
    apart, norm, other_norm, product = squares
    return {
        "max_abs": float(largest),
        "relative_l2": float(np.sqrt(apart) / max(np.sqrt(norm), 1e-12)),
        "cosine": float(product / max(np.sqrt(norm * other_norm), 1e-12)),
    }


def _rows(
    left: Iterable[NDArray[Any]], right: Iterable[NDArray[Any]]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the numbers a few at a time; frames around their middle grey, so that brightness alone is no likeness."""
    for a, b in zip(left, right, strict=True):
        middle = 127.5 if a.dtype == np.uint8 else 0.0
        for begin in range(0, a.size, ROW):
            part = slice(begin, begin + ROW)
            yield np.ravel(a)[part].astype(np.float64) - middle, np.ravel(b)[part].astype(np.float64) - middle
