"""How a preset's networks compute: in which numbers, and with which attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from dvgwm.runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Precision:
    """``dtype`` everywhere, FP8 products with ``fp8``, and which attention: float32 is lossless, others are bounded.

    ``attention`` is the library's (``library``), ours (``kernel``), ours on 8-bit integer scores (``8bit``) or in FP8
    (``fp8``).
    """

    dtype: torch.dtype
    fp8: bool = False
    attention: str = "library"


ALWAYS_FLOAT32 = ("frame_encoder", "policy", "waypoints")
"""Networks that no precision lowers: they are small, and what they give moves the arm."""

PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "float32": Precision(torch.float32),
        "bfloat16": Precision(torch.bfloat16),
        "bfloat16_kernel": Precision(torch.bfloat16, attention="kernel"),
        "fp8": Precision(torch.bfloat16, fp8=True),
        "fp8_kernel": Precision(torch.bfloat16, fp8=True, attention="kernel"),
        "fp8_8bit": Precision(torch.bfloat16, fp8=True, attention="8bit"),
        "fp8_fp8": Precision(torch.bfloat16, fp8=True, attention="fp8"),
    }
)


@dataclass(frozen=True, slots=True)
class GraphPrecision:
    """How an ONNX graph computes: in ``dtype``, but for the linear layers of the transformers' blocks where ``linear`` says so.

    Their weights are in 8 bits then, ``int8`` or ``fp8`` (E4M3), and with ``activations`` so is what inner blocks multiply.
    """

    dtype: torch.dtype
    linear: str = ""
    activations: bool = False


GRAPH_PRECISIONS: Mapping[str, GraphPrecision] = MappingProxyType(
    {
        "float32": GraphPrecision(torch.float32),
        "float16": GraphPrecision(torch.float16),
        "bfloat16": GraphPrecision(torch.bfloat16),
        "int8_weights": GraphPrecision(torch.float16, "int8"),
        "int8": GraphPrecision(torch.float16, "int8", activations=True),
        "fp8": GraphPrecision(torch.float16, "fp8", activations=True),
    }
)

SHORT = MappingProxyType({"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"})
"""Other names of precisions."""


def precision(name: str) -> Precision:
    """Return the precision called ``name``; raises `ConfigError` naming those that exist."""
    if name not in PRECISIONS:
        raise ConfigError("PRECISION", f"wanted a precision of {', '.join(PRECISIONS)}; got {name!r}")
    return PRECISIONS[name]
