"""What a lab gives, as the networks of a build and where the weights of each come from."""

from dataclasses import dataclass

import torch

from dvgwm.models.checkpoints import Checkpoint, Seeded, files_of, part_files
from dvgwm.models.hollow import hollow, slots
from dvgwm.models.networks import build
from dvgwm.models.sizes import Preset, VaeSize
from dvgwm.models.weights import load_parts
from dvgwm.runtime.bundle.disk import MANIFEST
from dvgwm.runtime.bundle.manifest import parse
from dvgwm.runtime.errors import ConfigError

from .order import Order
from .stored import Held, Stored, Streamed


@dataclass(frozen=True)
class Intake:
    """Networks and their weights; ``told`` is what the bundle says of them, ``trained`` whether all of them are."""

    stored: Stored
    told: str
    trained: bool


def intake(order: Order, preset: Preset) -> Intake:
    """Return what ``order`` builds ``preset`` from.

    ONNX graphs of a system with a VAE are made from hollow networks, so that it may be larger than memory. Raises
    `ConfigError` for weights that do not fit.
    """
    streamed = order.backend == "onnx" and isinstance(preset.codec, VaeSize)
    return _streamed(order, preset) if streamed else _held(order, preset)


def _held(order: Order, preset: Preset) -> Intake:
    networks = build(preset, order.seed)
    found = () if order.weights is None else load_parts(networks, order.weights)
    return Intake(Held(networks), *_told(order, tuple(networks.parts()), found))


def _streamed(order: Order, preset: Preset) -> Intake:
    networks = hollow(preset, torch.bfloat16 if order.precision == "bfloat16" else torch.float32)
    wanted = {part: slots(network) for part, network in networks.parts().items()}
    sources: dict[str, Checkpoint] = {part: Seeded(order.seed, part, state) for part, state in wanted.items()}
    found: tuple[str, ...] = ()
    if order.weights is not None:
        files = {part: part_files(order.weights, part) for part in wanted}
        found = tuple(part for part in wanted if files[part])
        if not found:
            names = ", ".join(f"{part}.safetensors" for part in wanted)
            raise ConfigError("WEIGHTS_MISSING", f"wanted {names} in {order.weights}, found none of them")
        sources |= {part: files_of(part, files[part], wanted[part]) for part in found}
    return Intake(Streamed(networks, sources), *_told(order, tuple(wanted), found))


def _told(order: Order, parts: tuple[str, ...], found: tuple[str, ...]) -> tuple[str, bool]:
    """Return where the weights come from and whether all of them are trained; a bundle's are what its manifest says of them."""
    random = f"seeded random weights (seed {order.seed}), untrained"
    if order.weights is None:
        return random, False
    if (order.weights / MANIFEST).is_file():
        card = parse((order.weights / MANIFEST).read_bytes()).model
        return card.weights, card.trained and set(found) == set(parts)
    left = [part for part in parts if part not in found]
    trained = f"trained {', '.join(found)}"
    return (f"{trained}; {', '.join(left)} from {random}", False) if left else (trained, True)
