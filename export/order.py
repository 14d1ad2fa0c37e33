"""The request for a build: preset, backend, weights; checked before anything is made."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dvgwm.models.precision import GRAPH_PRECISIONS, GraphPrecision, precision
from dvgwm.models.presets import preset
from dvgwm.models.sizes import Preset
from dvgwm.runtime import entries
from dvgwm.runtime.backends.compiling import Building, Compiler
from dvgwm.runtime.backends.facts import BackendFacts
from dvgwm.runtime.bundle.disk import MANIFEST
from dvgwm.runtime.bundle.tokenizer import check_instruction
from dvgwm.runtime.config.plugins import backend_facts, open_compiler
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.files import check_place
from dvgwm.runtime.profiler import available_memory_bytes

STEPS = ("export", "build", "verify", "benchmark")
ROOM_BYTES = 500e6
"""Free space beside the weights without which nothing is begun."""


@dataclass(frozen=True, slots=True)
class Order:
    """The request for a build: ``steps`` is how far to go; ``instructions`` are precomputed into the bundle.

    ``weights`` is a folder of trained networks; any it lacks are random, from ``seed``. ``layers`` and ``frames``
    shorten the preset (0: all of them). ``base`` is a diffusers pipeline, with a ``lora`` for its transformer merged in.
    Without its ``text_encoder`` a bundle knows the instructions only. With ``engines`` those are verified, and no more.
    With ``static`` no size is left open. ``calibrate`` is a recorded data set, for activations in 8 bits. Engines compiled
    here are kept in ``cache``. ``trained_on`` is the training data of the weights, if it is at hand. ``capabilities`` are the
    GPUs of engines made ahead; by default they are the compiler's.
    """

    preset: str
    backend: str
    out: Path
    seed: int
    steps: tuple[str, ...] = STEPS
    instructions: tuple[str, ...] = ()
    precision: str = "float32"
    weights: Path | None = None
    layers: int = 0
    frames: int = 0
    base: Path | None = None
    lora: Path | None = None
    lora_alpha: float | None = None
    text_encoder: bool = True
    engines: tuple[str, ...] = ()
    static: bool = False
    calibrate: Path | None = None
    cache: Path | None = None
    trained_on: Path | None = None
    capabilities: tuple[str, ...] = ()

    @property
    def facts(self) -> BackendFacts:
        """The facts of the backend."""
        return backend_facts(self.backend)

    @property
    def format(self) -> str:
        """The form of the engines in the bundle: graphs for onnx and tensorrt, or packages for torch."""
        return self.facts.runs

    @property
    def has_fixed_sizes(self) -> bool:
        """True if no size is left open: TensorRT compiles for one size of each."""
        return self.static or self.facts.sizes_are_fixed

    @property
    def verifies_on(self) -> str:
        """The backend of the gate: engines made ahead stand back for their graphs, as there may be no GPU."""
        return self.facts.runs if self.facts.ahead else self.backend

    def building(self, compiler: Compiler) -> Building:
        """Return how ``compiler`` makes engines ahead."""
        usual = compiler.usual(self.precision)
        return replace(usual, capabilities=self.capabilities or usual.capabilities)

    @property
    def dtype(self) -> torch.dtype:
        """The networks' dtype before the export; the torch backend lowers them when it compiles."""
        return GRAPH_PRECISIONS[self.precision].dtype if self.format == "onnx" else torch.float32

    @property
    def eight_bit(self) -> GraphPrecision | None:
        """The precision to quantise to after the export; None if nothing is quantised."""
        asked = GRAPH_PRECISIONS[self.precision] if self.format == "onnx" else None
        return asked if asked and asked.linear else None

    @property
    def recording(self) -> list[tuple[str, int, int]]:
        """A key of the data set to calibrate on: its files, their sizes and times."""
        files = sorted(path for path in self.calibrate.rglob("*") if path.is_file()) if self.calibrate else []
        return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]

    def checked(self) -> Preset:
        """Return the preset to build; raises `ConfigError` if it cannot be built, or not there."""
        size = preset(self.preset).shortened(self.layers, self.frames)
        built = [name for name in entries.names("backends") if backend_facts(name).precision]
        if self.backend not in built:
            raise ConfigError("BACKEND_BUILD", f"wanted --backend {' or '.join(built)}; got {self.backend!r}")
        if self.backend == "torch" and size.family == "wan":
            raise ConfigError(
                "BACKEND_FAMILY", f"{size.name} has no compiled form in this version; build it for --backend onnx"
            )
        if self.backend == "torch":
            precision(self.precision)
        elif self.precision not in GRAPH_PRECISIONS:
            raise ConfigError(
                "PRECISION",
                f"wanted --precision {', '.join(GRAPH_PRECISIONS)} for {self.backend}, got {self.precision!r}; "
                "or --backend torch",
            )
        elif self.verifies_on == "onnx" and self.dtype == torch.bfloat16 and "verify" in self.steps:
            raise ConfigError(
                "PRECISION_CPU",
                f"ONNX Runtime has no {self.precision} convolution on a CPU, so these graphs are not checked here: build them "
                "with --steps build, and a shortened float32 bundle (--layers 2) for the proof; or with --backend tensorrt",
            )
        self._check_calibration()
        self._check_ahead()
        if not self.text_encoder and not self.instructions:
            raise ConfigError(
                "INSTRUCTIONS_NONE",
                "wanted --instructions FILE with --no-text-encoder: nothing else could be asked of the bundle",
            )
        if self.lora_alpha is not None and not 0 < self.lora_alpha < 2**31:
            raise ConfigError("LORA_ALPHA", f"wanted a positive --lora-alpha, got {self.lora_alpha:g}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError("SEED", f"wanted --random-weights from 0 to {2**63 - 1}, got {self.seed}")
        check_place(self.out, MANIFEST, "bundle")
        return size

    def _check_calibration(self) -> None:
        activations = self.eight_bit is not None and self.eight_bit.activations
        if activations and self.calibrate is None:
            raise ConfigError(
                "CALIBRATE",
                f"wanted --calibrate DIR with --precision {self.precision}: a recorded LeRobot data set, such as "
                "`dvgwm-train data` writes; or take int8_weights, which needs none",
            )
        if self.calibrate is not None and not activations:
            raise ConfigError(
                "CALIBRATE", "wanted --calibrate with --precision int8 or fp8 only: nothing else needs it"
            )

    def _check_ahead(self) -> None:
        if self.facts.ahead:
            compiler = open_compiler(self.backend, None)
            compiler.check((), self.building(compiler), self.precision)
        elif self.capabilities:
            raise ConfigError(
                "COMPILE_FOR", f"wanted --for with --backend tensorrt_rtx only; got it with {self.backend}"
            )

    def check_room(self, size_bytes: int) -> int:
        """Return the free bytes for products of ``size_bytes``; raises `ConfigError` if they are too few."""
        disk = next(place for place in (self.out, *self.out.absolute().parents) if place.exists())
        free, needed = shutil.disk_usage(disk).free, size_bytes + ROOM_BYTES
        if free < needed:
            raise ConfigError(
                "DISK_FULL",
                f"wanted {needed / 1e9:.1f} GB free for {self.out}, found {free / 1e9:.1f} GB; free some or choose another "
                "--out",
            )
        return free


def check_memory(needed_bytes: float, what: str, instead: str) -> None:
    """Return if ``what`` fits into the available memory; raises `ConfigError` if not, with the remedy ``instead``.

    If the system does not tell its memory, all fits.
    """
    if needed_bytes > (available := available_memory_bytes()):
        raise ConfigError(
            "BUILD_MEMORY",
            f"{what} wants {needed_bytes / 1e9:.0f} GB of memory, {available / 1e9:.0f} GB are available; {instead}",
        )


def read_instructions(path: Path) -> tuple[str, ...]:
    """Return the instructions in a text file, one a line; raises `ConfigError` if it cannot be read or is empty."""
    try:
        if not path.is_file():
            raise ConfigError("INSTRUCTIONS_FILE", f"wanted a text file of instructions, got {path}; give one")
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("INSTRUCTIONS_FILE", f"cannot read {path}: {error}; give a text file") from None
    found = tuple(check_instruction(line) for line in lines if line and not line.startswith("#"))
    if not found:
        raise ConfigError("INSTRUCTIONS_FILE", f"{path} has no instruction; write one a line")
    return found
