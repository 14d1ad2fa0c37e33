"""The sources of a network's weights, tensor by tensor: nothing is read before it is asked for."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from dvgwm.runtime.errors import LONGEST_LINE, ConfigError

from .hollow import Slot
from .tensors import DTYPES, finite, header

T = TypeVar("T")
SETTINGS_BYTES = 4 << 20
"""The largest file of settings, or list of shards, that is read."""


class Checkpoint(Protocol):
    """Weights of one network by the names of its state."""

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """Every tensor's dtype."""

    @property
    def identity(self) -> object:
        """A key; it changes whenever a tensor does."""

    def read(self, name: str) -> Tensor:
        """Return a tensor."""


@dataclass(frozen=True)
class Seeded:
    """Random weights for the tensors of ``slots``, each drawn on its own: the same for any other slots and any dtype.

    A product keeps its input's size, norms are about 1 and biases about 0.
    """

    seed: int
    part: str
    slots: Mapping[str, Slot]

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        return {
            name: torch.float32 if slot.dtype.is_floating_point else slot.dtype for name, slot in self.slots.items()
        }

    @property
    def identity(self) -> object:
        return ["seeded", self.seed]

    def read(self, name: str) -> Tensor:
        shape = self.slots[name].shape
        digest = hashlib.sha256(f"{self.seed} {self.part} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        if len(shape) < 2:
            drawn = torch.empty(shape).normal_(0.0, 0.05, generator=generator)
            return drawn.add_(1.0) if name.endswith("weight") else drawn
        inputs = torch.Size(shape[1:]).numel()
        return torch.empty(shape).normal_(0.0, inputs**-0.5, generator=generator)


@dataclass(frozen=True)
class Files:
    """Tensors in safetensors files; ``where`` maps a name in the state to a file and the name in it."""

    where: Mapping[str, tuple[Path, str]]
    dtypes: Mapping[str, torch.dtype]

    @property
    def identity(self) -> object:
        files = sorted({path for path, _ in self.where.values()})
        return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]

    def read(self, name: str) -> Tensor:
        path, stored = self.where[name]
        with safe_open(path, "pt") as file:
            return finite(file.get_tensor(stored), stored, path)


def files_of(
    part: str, paths: Sequence[Path], wanted: Mapping[str, Slot], spare: frozenset[str] = frozenset(), prefix: str = ""
) -> Files:
    """Return the tensors of ``paths`` as the weights of ``part`` with the state ``wanted``; only headers are read.

    Those called ``spare`` are left out knowingly; names may have a ``prefix``. Raises `ConfigError` with all that is wrong.
    """
    first = {name: slot.names[0] for slot in wanted.values() for name in slot.names}
    first |= {f"{prefix}{name}": own for name, own in first.items()}
    where: dict[str, tuple[Path, str]] = {}
    dtypes, wrong = {}, []
    for path in paths:
        for tensor in header(path):
            name = first.get(tensor.name)
            if name is None:
                wrong += [] if tensor.name in spare else [f"{tensor.name} is none of its tensors"]
                continue
            if name in where and not _is_same(where[name], (path, tensor.name)):
                wrong.append(f"{tensor.name} is there twice: {where[name][1]} in {where[name][0].name} is another")
            if tensor.shape != wanted[name].shape:
                wrong.append(f"{tensor.name} is {_told(tensor.shape)} and not {_told(wanted[name].shape)}")
            if tensor.dtype not in DTYPES:
                wrong.append(f"{tensor.name} is {tensor.dtype} and not of {', '.join(DTYPES)}")
            where[name], dtypes[name] = (path, tensor.name), DTYPES.get(tensor.dtype, torch.float32)
    wrong += [f"{name} is missing" for name in wanted if name not in where]
    if wrong:
        raise ConfigError("WEIGHTS_SIZE", f"{paths[0].parent} does not fit {part}: {listed(wrong)}")
    return Files(where, dtypes)


def _is_same(one: tuple[Path, str], other: tuple[Path, str]) -> bool:
    """Return whether two tensors of one file are the same: a tied weight may be there under both of its names."""
    if one[0] != other[0]:
        return False
    with safe_open(one[0], "pt") as file:
        first, second = file.get_tensor(one[1]), file.get_tensor(other[1])
    return first.dtype == second.dtype and torch.equal(first, second)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of settings; raises `ConfigError` if there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(SETTINGS_BYTES + 1)
        value = json.loads(data) if len(data) <= SETTINGS_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError("SETTINGS_FILE", f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(
            "SETTINGS_FILE", f"wanted a JSON object of at most {SETTINGS_BYTES >> 20} MB in {path}, found none"
        )
    return value


def together(reads: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Return the results of ``reads``; raises the `ConfigError` of the one that fails, or one for all of them."""
    given, errors = {}, []
    for name, read in reads.items():
        try:
            given[name] = read()
        except ConfigError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        share = LONGEST_LINE // len(errors) - 20
        told = (text if len(text) <= share else f"{text[:share]} ..." for text in map(str, errors))
        raise ConfigError("INTAKE", f"{len(errors)} things cannot be taken in: {'. '.join(told)}")
    return given


def listed(wrong: Sequence[str], most: int = 20) -> str:
    """Return ``wrong`` in one line, or its beginning if it is long."""
    more = f"; and {len(wrong) - most} more" if len(wrong) > most else ""
    told = "; ".join(wrong[:most])
    return told if len(wrong) == 1 else f"{len(wrong)} things: {told}{more}"


def _told(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
