"""What is to be built: a preset, for which backend, from which weights; checked before anything is made."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from dvgwm.models.networks import Networks
from dvgwm.models.precision import precision
from dvgwm.models.presets import LinearCodecSize, Preset, preset
from dvgwm.models.weights import load_parts
from dvgwm.runtime.bundle.disk import MANIFEST
from dvgwm.runtime.bundle.manifest import parse
from dvgwm.runtime.bundle.tokenizer import check_instruction
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.files import check_place

STEPS = ("export", "build", "verify", "benchmark")
BACKENDS = ("onnx", "torch")
ROOM_BYTES = 500e6
"""Free space without which nothing is begun."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to build: ``steps`` is how far to go; ``instructions`` are precomputed into the bundle.

    ``weights`` is a folder of trained networks; those that it lacks are random, from ``seed``.
    """

    preset: str
    backend: str
    out: Path
    seed: int
    steps: tuple[str, ...] = STEPS
    instructions: tuple[str, ...] = ()
    precision: str = "float32"
    weights: Path | None = None

    def checked(self) -> Preset:
        """Return the preset to build; raises `ConfigError` for what cannot be built, or not there."""
        size = preset(self.preset)
        if self.backend not in BACKENDS:
            raise ConfigError("BACKEND_BUILD", f"wanted --backend {' or '.join(BACKENDS)}; got {self.backend!r}")
        if self.backend == "onnx" and self.precision != "float32":
            raise ConfigError(
                "PRECISION",
                f"wanted --precision float32 for onnx in this version, got {self.precision!r}; or --backend torch",
            )
        precision(self.precision)
        if not 0 <= self.seed < 2**63:
            raise ConfigError("SEED", f"wanted --random-weights from 0 to {2**63 - 1}, got {self.seed}")
        if not isinstance(size.codec, LinearCodecSize) and size.text.tokenizer != "bytes":
            raise ConfigError(
                "PRESET_SIZE",
                f"{size.name} is full size, which this version does not export yet; take a1_tiny or test_tiny",
            )
        check_place(self.out, MANIFEST, "bundle")
        disk = next(place for place in (self.out, *self.out.absolute().parents) if place.exists())
        if shutil.disk_usage(disk).free < ROOM_BYTES:
            raise ConfigError(
                "DISK_FULL", f"wanted 500 MB free for {self.out}, found less; free some or choose another --out"
            )
        return size

    def load_weights(self, networks: Networks) -> tuple[str, bool]:
        """Take up trained weights, and return where the networks' come from and whether all of them are trained.

        A bundle's are what its manifest says of them.
        """
        random = f"seeded random weights (seed {self.seed}), untrained"
        if self.weights is None:
            return random, False
        found = load_parts(networks, self.weights)
        if (self.weights / MANIFEST).is_file():
            card = parse((self.weights / MANIFEST).read_bytes()).model
            return card.weights, card.trained and set(found) == set(networks.parts())
        left = [name for name in networks.parts() if name not in found]
        trained = f"trained {', '.join(found)}"
        return (f"{trained}; {', '.join(left)} from {random}", False) if left else (trained, True)


def read_instructions(path: Path) -> tuple[str, ...]:
    """Return the instructions in a text file, one a line; raises `ConfigError` where it cannot be read or is empty."""
    try:
        if not path.is_file():
            raise ConfigError("INSTRUCTIONS_FILE", f"wanted a text file of instructions, got {path}; give one")
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("INSTRUCTIONS_FILE", f"cannot read {path}: {error}; give a text file") from None
    found = tuple(check_instruction(line) for line in lines if line and not line.startswith("#"))
    if not found:
        raise ConfigError("INSTRUCTIONS_FILE", f"{path} has no instruction; write one a line")
    return found
