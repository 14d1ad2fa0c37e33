"""A safetensors file: the names, shapes and dtypes in its header, and a check for finite numbers."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dvgwm.runtime.errors import ConfigError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Safetensors' names of the floating dtypes that weights come in."""
MOST_TENSORS = 100_000
"""Of a file; the largest networks have a hundredth of it."""


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """The entry of one tensor in a safetensors file's header."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def header(path: Path) -> list[TensorHeader]:
    """Return the header of the safetensors file at ``path``; raises `ConfigError` if it is invalid, or the file too short."""
    try:
        with safe_open(path, "pt") as file:
            if len(file.keys()) > MOST_TENSORS:
                raise ConfigError(
                    "WEIGHTS_FILE", f"{path}: wanted at most {MOST_TENSORS} tensors, got {len(file.keys())}"
                )
            slices = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118 (no mapping)
            return [TensorHeader(name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices]
    except (OSError, SafetensorError) as error:
        raise ConfigError("WEIGHTS_FILE", f"{path} is no safetensors file that can be read: {error}") from None


def finite(tensor: Tensor, name: str, path: Path) -> Tensor:
    """Return ``tensor`` if all of its numbers are finite; raises `ConfigError` with its name if not."""
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        count = int((~torch.isfinite(tensor)).sum())
        raise ConfigError(
            "WEIGHTS_VALUES",
            f"{path}: {name} has {count} numbers that are not finite; train it again, or take an earlier checkpoint",
        )
    return tensor
