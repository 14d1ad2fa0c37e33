"""The forms of kernels to compile ahead of time, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
FP8_ARCHITECTURES = (89, 90, 100, 120)
"""Architectures with 8-bit floating point in their matrix units and conversions."""

MADE = MappingProxyType({"enable_fp_fusion": True})
"""Options of every compilation: a product and a sum are one instruction. Triton's own choice depends on its release."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One compiled form of a kernel.

    ``signature`` maps its arguments to Triton's type names in their order, ``constants`` are compiled in.
    Pointers, and the integers in ``divisible``, have to be multiples of 16 (bytes, elements): loads are vectors then.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int = 4
    stages: int = 3
    divisible: tuple[str, ...] = ()
    matrix: bool = field(default=False)
    """True if the target's matrix instructions have to appear in it."""
