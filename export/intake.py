"""What a lab gives, as the networks of a build and where the weights of each come from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dvgwm.models.adapters import Merged, updates_of
from dvgwm.models.checkpoints import Checkpoint, Files, Seeded, files_of, together
from dvgwm.models.hollow import Slot, hollow, lowered, slots
from dvgwm.models.networks import Networks, build
from dvgwm.models.precision import GRAPH_PRECISIONS
from dvgwm.models.presets import preset as preset_of
from dvgwm.models.sizes import LinearCodecSize, Preset
from dvgwm.models.weights import load_parts, part_files
from dvgwm.runtime.bundle.disk import MANIFEST
from dvgwm.runtime.bundle.manifest import parse
from dvgwm.runtime.bundle.tokenizer import TOKENIZER_FILE
from dvgwm.runtime.errors import ConfigError

from .lab import read_base
from .order import Order, check_memory
from .stored import Held, Stored, Streamed
from .tokenizer import of_bytes, read_tokenizer


@dataclass(frozen=True)
class Intake:
    """Networks and their weights; ``told`` is what the bundle says of them, ``trained`` whether all of them are.

    ``tokenizer`` is the bundle's `tokenizer.json`, None where it takes bytes as they are.
    """

    stored: Stored
    told: str
    trained: bool
    tokenizer: bytes | None = None


def intake(order: Order, preset: Preset) -> Intake:
    """Return what ``order`` builds ``preset`` from.

    ONNX graphs of a system with a VAE are made from hollow networks, so that it may be larger than memory. Raises
    `ConfigError` for weights that do not fit, before any is read.
    """
    if order.weights is not None and (order.weights / MANIFEST).is_file():
        made = parse((order.weights / MANIFEST).read_bytes())
        if made.backend == "onnx" and GRAPH_PRECISIONS[made.precision].linear:
            raise ConfigError(
                "WEIGHTS_8BIT",
                f"{order.weights} holds weights in 8 bits ({made.precision}); name what it was made from",
            )
    streamed = order.format == "onnx" and not isinstance(preset.codec, LinearCodecSize)
    if (order.base or order.lora) and not streamed:
        raise ConfigError(
            "BASE_PRESET", f"--base and --preview-lora are for {_LARGE} and --backend onnx; use --weights"
        )
    return _streamed(order, preset) if streamed else _held(order, preset)


_LARGE = "presets with a VAE (dvgwm_5b)"


def _held(order: Order, preset: Preset) -> Intake:
    numbers = sum(
        slot.numbers for part in build(preset, device="meta").parts().values() for slot in slots(part).values()
    )
    check_memory(
        4 * numbers, f"{preset.name} for --backend {order.backend}", "export it with --backend onnx, or --layers 2"
    )
    reference = build(preset, order.seed)
    found = () if order.weights is None else load_parts(reference, order.weights)
    dtype = order.dtype
    networks = reference if dtype == torch.float32 else lowered(reference, dtype)
    return Intake(Held(networks, reference), *_told(order, tuple(networks.parts()), found), _tokenizer(order, preset))


def _streamed(order: Order, preset: Preset) -> Intake:
    networks = hollow(preset, order.dtype)
    reference = networks if order.dtype == torch.float32 else hollow(preset)
    # A checkpoint is one of the whole preset, of which a shortened one takes what it has.
    whole = build(preset_of(preset.name), device="meta")
    wanted = {part: slots(network) for part, network in whole.parts().items()}
    found = _found(order, preset, whole, wanted)
    here = {part: slots(network) for part, network in networks.parts().items()}
    random = {part: Seeded(order.seed, part, state) for part, state in here.items() if part not in found}
    stored = Streamed(networks, reference, random | found)
    if "verify" in order.steps and not order.engines:
        numbers = sum(slot.numbers for part in here.values() for slot in part.values())
        # torch's in float32, and the engines' own.
        check_memory(
            4 * numbers + stored.size_bytes,
            f"{preset.name} beside its reference",
            "go as far as --steps build, or --layers 2",
        )
    return Intake(stored, *_told(order, tuple(here), tuple(found)), _tokenizer(order, preset))


def _tokenizer(order: Order, preset: Preset) -> bytes | None:
    if preset.text.tokenizer != TOKENIZER_FILE:
        return None
    if order.base is not None:
        return read_tokenizer(order.base / "tokenizer", preset.text)
    if order.weights is not None and (order.weights / TOKENIZER_FILE).is_file():
        return read_tokenizer(order.weights, preset.text)
    return of_bytes()


def _found(
    order: Order, preset: Preset, networks: Networks, wanted: Mapping[str, Mapping[str, Slot]]
) -> dict[str, Checkpoint]:
    """Return the trained weights that the order names, by part; a part of ours goes before the base's."""
    reads: dict[str, Callable[[], Mapping[str, Any]]] = {}
    if order.base is not None:
        reads["base"] = partial(read_base, order.base, preset, networks, wanted)
    if order.weights is not None:
        reads["weights"] = partial(_ours, order.weights, wanted)
    if order.lora is not None:
        reads["lora"] = partial(updates_of, order.lora, wanted["preview"], order.lora_alpha)
    given = together(reads)
    found = {**given.get("base", {}), **given.get("weights", {})}
    if order.lora is not None:
        if "preview" not in found:
            raise ConfigError("LORA_BASE", "wanted the preview that the LoRA is for; name it with --base or --weights")
        found["preview"] = Merged(found["preview"], given["lora"])
    return found


def _ours(folder: Path, wanted: Mapping[str, Mapping[str, Slot]]) -> dict[str, Files]:
    """Return the networks of our own training in ``folder``."""
    files = {part: paths for part in wanted if (paths := part_files(folder, part))}
    if not files:
        names = ", ".join(f"{part}.safetensors" for part in wanted)
        raise ConfigError("WEIGHTS_MISSING", f"wanted {names} in {folder}, found none of them")
    return together({part: partial(files_of, part, paths, wanted[part]) for part, paths in files.items()})


def _told(order: Order, parts: tuple[str, ...], found: tuple[str, ...]) -> tuple[str, bool]:
    """Return where the weights come from and whether all of them are trained; a bundle's are what its manifest says of them."""
    random = f"seeded random weights (seed {order.seed}), untrained"
    if not found:
        return random, False
    if order.weights is not None and not order.base and (order.weights / MANIFEST).is_file():
        card = parse((order.weights / MANIFEST).read_bytes()).model
        return card.weights, card.trained and set(found) == set(parts)
    left = [part for part in parts if part not in found]
    trained = f"trained {', '.join(found)}{' with a LoRA' if order.lora else ''}"
    if order.layers:
        return f"{trained}, the first {order.layers} layers of each, which alone mean nothing", False
    return (f"{trained}; {', '.join(left)} from {random}", False) if left else (trained, True)
