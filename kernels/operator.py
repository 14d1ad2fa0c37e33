"""A kernel as a torch operator: plain twin on the CPU, Triton on CUDA, shapes alone while a graph is traced."""

from collections.abc import Callable
from typing import Any

import torch

from .language import AVAILABLE

NAMESPACE = "dvgwm"


def operator(
    plain: Callable[..., Any], compiled: Callable[..., Any], fake: Callable[..., Any], mutates: tuple[str, ...] = ()
) -> Any:
    """Return ``plain``'s operator ``dvgwm::name``; its schema is read from ``plain``'s annotations."""
    name = plain.__name__.removeprefix("plain_")
    made = torch.library.custom_op(f"{NAMESPACE}::{name}", plain, mutates_args=mutates, device_types="cpu")
    made.register_kernel("cuda")(compiled if AVAILABLE else plain)
    made.register_fake(fake)
    return made


def inner(*dtypes: torch.dtype) -> torch.dtype:
    """Return the dtype that a twin computes in: float32, or float64 where a tensor is."""
    return torch.float64 if torch.float64 in dtypes else torch.float32
