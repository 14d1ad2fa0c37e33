"""A kernel as a torch operator: its plain twin on the CPU and where shapes alone are traced, Triton on CUDA."""

from collections.abc import Callable
from typing import Any

import torch

from .language import AVAILABLE

NAMESPACE = "dvgwm"


def operator(plain: Callable[..., Any], compiled: Callable[..., Any], mutates: tuple[str, ...] = ()) -> Any:
    """Return ``plain``'s operator ``dvgwm::name``; its schema is read from ``plain``'s annotations."""
    name = plain.__name__.removeprefix("plain_")
    registered = torch.library.custom_op(f"{NAMESPACE}::{name}", plain, mutates_args=mutates, device_types="cpu")
    registered.register_kernel("cuda")(compiled if AVAILABLE else plain)
    registered.register_fake(plain)
    return registered


def wide_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """Return the dtype that a twin computes in: float32, or float64 where a tensor is."""
    return torch.float64 if torch.float64 in dtypes else torch.float32
