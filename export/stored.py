"""The networks of a build and the safetensors files of their weights: all in memory, or streamed shard by shard."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from dvgwm.models.checkpoints import Checkpoint
from dvgwm.models.hollow import Slot, fill, slots
from dvgwm.models.networks import Networks
from dvgwm.models.weights import save_exactly, save_tensors
from dvgwm.runtime.errors import ConfigError

from .describe import weights_hash

SHARD_BYTES = 1_000_000_000
"""How much of a network is written at a time: what a stopped build loses, and what is in memory."""


class Stored(Protocol):
    """The networks of a build, and the files of their weights."""

    @property
    def networks(self) -> Networks:
        """The modules to export as graphs."""

    @property
    def reference(self) -> Networks:
        """The same in float32, for the graphs' parity; `networks` themselves if they are float32."""

    @property
    def size_bytes(self) -> int:
        """The size of the files to come."""

    @property
    def facts(self) -> object:
        """A key; it changes whenever a weight does."""

    def files(self) -> Mapping[str, Mapping[str, Callable[[Path], None]]]:
        """Return the function to write each file, by part and name."""

    def hashes(self, written: Mapping[str, Sequence[Path]]) -> dict[str, str]:
        """Return a hash of every part's weights; their files are ``written``."""

    def fill(self) -> None:
        """Load the numbers of the reference."""


@dataclass(frozen=True)
class Held:
    """Networks in memory: one file each, in half precision if nothing is lost by it."""

    networks: Networks
    reference: Networks

    @property
    def size_bytes(self) -> int:
        states = (network.state_dict().values() for network in self.networks.parts().values())
        return sum(tensor.nbytes for state in states for tensor in state)

    @property
    def facts(self) -> object:
        return self.hashes({})

    def files(self) -> Mapping[str, Mapping[str, Callable[[Path], None]]]:
        parts = self.networks.parts().items()
        return {part: {f"{part}.safetensors": partial(save_exactly, network)} for part, network in parts}

    def hashes(self, written: Mapping[str, Sequence[Path]]) -> dict[str, str]:
        return {part: weights_hash(network) for part, network in self.networks.parts().items()}

    def fill(self) -> None:
        """Do nothing: it has them."""


@dataclass(frozen=True)
class Streamed:
    """Hollow networks: their weights go from ``sources`` into shards, one in memory at a time."""

    networks: Networks
    reference: Networks
    sources: Mapping[str, Checkpoint]

    @property
    def size_bytes(self) -> int:
        return sum(
            slot.numbers * self._dtype(part, name, slot).itemsize
            for part, network in self.networks.parts().items()
            for name, slot in slots(network).items()
        )

    @property
    def facts(self) -> object:
        return {part: source.identity for part, source in self.sources.items()}

    def files(self) -> Mapping[str, Mapping[str, Callable[[Path], None]]]:
        return {part: dict(self._shards(part)) for part in self.networks.parts()}

    def hashes(self, written: Mapping[str, Sequence[Path]]) -> dict[str, str]:
        digests = {part: [_digest(path) for path in files] for part, files in written.items()}
        return {part: hashlib.sha256("".join(each).encode()).hexdigest() for part, each in digests.items()}

    def fill(self) -> None:
        fill(self.reference, lambda part, name: self.sources[part].read(name))

    def _shards(self, part: str) -> Iterator[tuple[str, Callable[[Path], None]]]:
        """Yield each shard of a part: its name, as in diffusers' checkpoints, and the function to write it."""
        dtypes = {name: self._dtype(part, name, slot) for name, slot in slots(self.networks.parts()[part]).items()}
        groups: list[list[str]] = [[]]
        room = SHARD_BYTES
        for name, slot in slots(self.networks.parts()[part]).items():
            size = slot.numbers * dtypes[name].itemsize
            if groups[-1] and size > room:
                groups.append([])
                room = SHARD_BYTES
            groups[-1].append(name)
            room -= size
        for index, names in enumerate(groups, 1):
            shard = part if len(groups) == 1 else f"{part}-{index:05d}-of-{len(groups):05d}"
            yield f"{shard}.safetensors", partial(self._write, part, {name: dtypes[name] for name in names})

    def _write(self, part: str, dtypes: Mapping[str, torch.dtype], path: Path) -> None:
        save_tensors({name: self._lowered(part, name, dtype) for name, dtype in dtypes.items()}, path)

    def _lowered(self, part: str, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Return a weight as ``dtype``; raises `ConfigError` if it is too large for it."""
        weight = self.sources[part].read(name)
        if not torch.isfinite(lowered := weight.to(dtype)).all():
            most = f"{torch.finfo(dtype).max:g}"
            raise ConfigError(
                "WEIGHTS_VALUES",
                f"{part}: {name} reaches {weight.abs().max():g}, {dtype} ends at {most}; build it with --precision bfloat16",
            )
        return lowered

    def _dtype(self, part: str, name: str, slot: Slot) -> torch.dtype:
        """Return the dtype of a tensor's file: the graph's, or half precision if its source has no more."""
        source = self.sources[part].dtypes[name]
        return source if slot.dtype == torch.float32 and source.itemsize == 2 else slot.dtype


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
