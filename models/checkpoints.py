"""Where a network's weights come from, tensor by tensor: nothing is read before it is asked for."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dvgwm.runtime.errors import ConfigError

from .hollow import Slot

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Safetensors' names of the floating dtypes that weights come in."""


class Checkpoint(Protocol):
    """Weights of one network by the names of its state."""

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """Every tensor's dtype."""

    @property
    def identity(self) -> object:
        """What changes whenever a tensor does."""

    def read(self, name: str) -> Tensor:
        """Return a tensor."""


@dataclass(frozen=True)
class Seeded:
    """Random weights for the tensors of ``slots``, each drawn on its own: the same whatever else is drawn, and in which dtype.

    A product keeps the size of what goes through it, norms are about 1 and biases about 0.
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
    """Tensors in safetensors files; ``where`` maps a state's name to the file that has it and its name in there."""

    where: Mapping[str, tuple[Path, str]]
    dtypes: Mapping[str, torch.dtype]

    @property
    def identity(self) -> object:
        files = sorted({path for path, _ in self.where.values()})
        return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]

    def read(self, name: str) -> Tensor:
        path, stored = self.where[name]
        with safe_open(path, "pt") as file:
            return file.get_tensor(stored)


def part_files(folder: Path, part: str) -> Sequence[Path]:
    """Return the safetensors files of a part in ``folder``, one or several shards; none where it has none."""
    whole = folder / f"{part}.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{part}-[0-9]*-of-[0-9]*.safetensors"))


def files_of(part: str, paths: Sequence[Path], wanted: Mapping[str, Slot]) -> Files:
    """Return the tensors of ``paths`` as the weights of ``part``, whose state is ``wanted``; their headers are read only.

    Raises `ConfigError` with everything that does not fit.
    """
    first = {name: slot.names[0] for slot in wanted.values() for name in slot.names}
    where: dict[str, tuple[Path, str]] = {}
    dtypes, wrong = {}, []
    for path in paths:
        for stored, shape, dtype in _header(path):
            name = first.get(stored)
            if name is None:
                wrong.append(f"{stored} is none of its tensors")
                continue
            if name in where and where[name][0] != path:
                wrong.append(f"{stored} is there twice")
            if shape != wanted[name].shape:
                wrong.append(f"{stored} is {_told(shape)} and not {_told(wanted[name].shape)}")
            if dtype not in DTYPES:
                wrong.append(f"{stored} is {dtype} and not of {', '.join(DTYPES)}")
            where[name], dtypes[name] = (path, stored), DTYPES.get(dtype, torch.float32)
    wrong += [f"{name} is missing" for name in wanted if name not in where]
    if wrong:
        raise ConfigError("WEIGHTS_SIZE", f"{paths[0].parent} does not fit {part}: {listed(wrong)}")
    return Files(where, dtypes)


def listed(wrong: Sequence[str], most: int = 20) -> str:
    """Return all that is wrong in one line, the first of it where it is too much to read."""
    more = f"; and {len(wrong) - most} more" if len(wrong) > most else ""
    told = "; ".join(wrong[:most])
    return told if len(wrong) == 1 else f"{len(wrong)} things: {told}{more}"


def _header(path: Path) -> list[tuple[str, tuple[int, ...], str]]:
    try:
        with safe_open(path, "pt") as file:
            slices = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118 (no mapping)
            return [(name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices]
    except (OSError, SafetensorError) as error:
        raise ConfigError("WEIGHTS_FILE", f"{path} is no safetensors file that can be read: {error}") from None


def _told(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
