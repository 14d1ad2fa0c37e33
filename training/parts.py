"""The parts of a run that are trained: what each learns from, what it goes on from, and what it leaves."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset

from dvgwm.models.codec import LinearCodec
from dvgwm.models.networks import Networks, build
from dvgwm.models.sizes import LinearCodecSize, Preset
from dvgwm.models.weights import load_parts, load_weights
from dvgwm.runtime.bundle.tokenizer import byte_tokens
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.record.reader import open_dataset
from dvgwm.runtime.types import ImageArray

from .arrays import open_arrays
from .cascade import Cascade
from .census import split
from .clips import LatentClips, latents_of, windows, write_clips
from .config import PolicyPart, Run, changed
from .joint import JointObjective
from .loop import WEIGHTS, Progress, Watch, train
from .policy import PolicyObjective, Windows
from .preview import PreviewObjective
from .refiner import RefinerObjective
from .watch import look_at_preview, look_at_refiner, look_at_waypoints
from .waypoints import WaypointsObjective

Report = Callable[[Progress], None]
Count = Callable[[int, int], None]
PATHS_WATCHED, PREVIEWS_WATCHED, REFINED_WATCHED = 400, 10, 5


@dataclass(frozen=True, slots=True)
class Kind:
    """What a part trains: its networks, what its clips hold (nothing for windows of frames), and the parts it goes on from.

    ``latent_frames`` is how many of a clip's latents it reads, all if None.
    """

    networks: tuple[str, ...]
    clips: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    latent_frames: int | None = None


KINDS = {
    "policy": Kind(("frame_encoder", "policy")),
    "waypoints": Kind(("waypoints", "text"), ("low",), (), latent_frames=1),
    "preview": Kind(("preview", "text"), ("low",), ("waypoints",)),
    "refiner": Kind(("refiner",), ("low", "high", "degraded"), ("waypoints", "preview")),
    "tune": Kind(("frame_encoder", "policy"), (), ("policy",)),
    "joint": Kind(("refiner", "frame_encoder", "policy"), ("low", "high"), ("waypoints", "preview", "refiner", "tune")),
}
"""Every part by name, a later one's networks before an earlier one's."""


def networks_of(run: Run) -> Networks:
    """Return the networks of the run's preset as they are before any training.

    A refiner that tells what is to be added to the preview begins by adding nothing.
    """
    networks, dit = build(run.preset, run.seed), run.preset.refiner
    if networks.refiner is not None and run.preset.refiner_sees_preview and dit is not None and dit.predicts == "clean":
        for tensor in networks.refiner.proj_out.parameters():
            tensor.zero_()
    return networks


def train_part(
    run: Run,
    name: str,
    report: Report,
    counted: Count,
    minutes: float | None = None,
    steps: int | None = None,
    start: Path | None = None,
) -> dict[str, Any]:
    """Train the part of `KINDS` called ``name`` and return what came of it; ``counted`` hears of clips being written.

    It starts from the networks of the folder ``start``, else from the parts it goes on from, else from nothing.
    """
    kind, part = KINDS[name], changed(getattr(run, name), steps=steps)
    networks = networks_with_codecs(run) if kind.clips else networks_of(run)
    for earlier in kind.after:
        take_up(run, networks, earlier)
    learned: Dataset[dict[str, Tensor]]
    held: Dataset[dict[str, Tensor]]
    if kind.clips:
        learned, held = _clips(run, networks, kind, counted)
    else:
        learned, held = _tuning(run, part) if name == "tune" else _windows(run, part, run.data.path)
    if start is not None:
        load_parts(networks, start)
    torch.manual_seed(run.seed)
    look = None
    if name == "refiner" and not part.shard:
        cascade = Cascade(run, networks, tokens_of(run.preset))
        look = look_at_refiner(run.preset, cascade, cast(LatentClips, held), REFINED_WATCHED)
    objective = _objective(run, networks, name, part)
    if name == "waypoints":
        look = look_at_waypoints(run.preset, cast(LatentClips, held), PATHS_WATCHED)
    if name == "preview":
        look = look_at_preview(run.preset, networks.low_codec, cast(LatentClips, held), PREVIEWS_WATCHED)
    reached: list[Progress] = []

    def noted(progress: Progress) -> None:
        reached[:] = [progress]
        report(progress)

    path = train(part, objective, learned, run.out / name, run.seed, noted, Watch(held, look), minutes)
    return {"weights": str(path)} | (asdict(reached[0]) if reached else {})


def imagined(run: Run) -> Path:
    """Return where the data set is that `imagine` writes and the tuned policy learns from."""
    return run.out / "imagined"


def tokens_of(preset: Preset) -> Callable[[str], Tensor]:
    """Return what makes tokens, int64 L, of an instruction; raises `ConfigError` where that wants a checkpoint's file."""
    if preset.text.tokenizer != "bytes":
        raise ConfigError("TOKENIZER", f"{preset.name} wants its checkpoint's {preset.text.tokenizer}, not read yet")

    def tokens(instruction: str) -> Tensor:
        found = byte_tokens(instruction)
        if len(found) > preset.text.max_tokens:
            raise ConfigError(
                "INSTRUCTION_LONG", f"{instruction!r} has {len(found)} tokens, at most {preset.text.max_tokens}"
            )
        return torch.tensor(found + [0] * (preset.text.max_tokens - len(found)))

    return tokens


def networks_with_codecs(run: Run) -> Networks:
    """Return `networks_of` the run with the linear codecs that were fitted for it."""
    networks = networks_of(run)
    for name, codec in (("low_codec", networks.low_codec), ("codec", networks.codec)):
        if isinstance(codec, LinearCodec):
            load_weights(codec, weights_file(run, name))
    return networks


def _objective(run: Run, networks: Networks, name: str, part: Any) -> nn.Module:
    if name in ("policy", "tune"):
        return PolicyObjective(run.preset, networks, part)
    if name == "joint":
        return JointObjective(run.preset, networks, part)
    if name == "waypoints":
        return WaypointsObjective(run.preset, networks, part)
    kind = PreviewObjective if name == "preview" else RefinerObjective
    return kind(run.preset, networks, part, tokens_of(run.preset)(""))


def take_up(run: Run, networks: Networks, name: str) -> None:
    """Give ``networks`` what the part called ``name`` has learned, nothing where the preset has none of it."""
    if KINDS[name].networks[0] not in networks.parts():
        return
    objective = _objective(run, networks, name, getattr(run, name))
    load_weights(objective, weights_file(run, name), borrowed=getattr(objective, "borrowed", ()))


def weights_file(run: Run, name: str) -> Path:
    """Return what the part called ``name`` left; raises `ConfigError` where it has left nothing yet."""
    path = run.out / name / WEIGHTS
    if not path.is_file():
        command = "codec" if name.endswith("codec") else name
        raise ConfigError("WEIGHTS_MISSING", f"{path} is not there; make it first with `dvgwm-train {command}`")
    return path


def _windows(run: Run, part: PolicyPart, path: Path, most: int | None = None) -> tuple[Windows, Windows]:
    """Return the windows of the frames of ``path`` to learn from, of at most ``most`` episodes, and to test on."""
    arrays, numbers = open_arrays(path, run.data.camera), split(open_dataset(path))
    learned, held = (Windows(run.preset, arrays, episodes[:most], part.window, run.seed) for episodes in numbers)
    return learned, held


def _tuning(run: Run, part: PolicyPart) -> tuple[ConcatDataset[dict[str, Tensor]], Windows]:
    """Return imagined windows with as many true ones, so that what is true stays known, and imagined ones to test on."""
    learned, held = _windows(run, part, imagined(run))
    true, _ = _windows(run, part, run.data.path, len(split(open_dataset(imagined(run)))[0]))
    return ConcatDataset([learned, true]), held


def _clips(run: Run, networks: Networks, kind: Kind, counted: Count) -> tuple[LatentClips, LatentClips]:
    """Return the clips to learn from and to test on, their latents written where they are not there yet."""
    arrays, numbers = open_arrays(run.data.path, run.data.camera), split(open_dataset(run.data.path))
    names = [name for name in kind.clips if name != "degraded" or run.refiner.pixel_share]
    # A linear codec's high latents are made as fast as they would be read.
    quick = [name for name in names if name != "low"] if isinstance(run.preset.codec, LinearCodecSize) else []
    kept = [name for name in names if name not in quick]
    live = {name: partial(_latents, run, networks, name) for name in quick}
    clips, tokens = [], tokens_of(run.preset)
    also = ["actions"] * ("policy" in kind.networks) + ["poses"] * (networks.waypoints is not None)
    for name, episodes, later in zip(("train", "test"), numbers, (run.data.later, 0.0), strict=True):
        folder = run.out / "latents" / name
        chosen = windows(run.preset, arrays, episodes, later, run.seed)
        write_clips(folder, run.preset, networks, arrays, chosen, kept, counted)
        clips.append(LatentClips(run.preset, folder, kept, arrays, tokens, also, live, kind.latent_frames))
    return clips[0], clips[1]


def _latents(run: Run, networks: Networks, name: str, frames: ImageArray, draw: float) -> Tensor:
    return latents_of(run.preset, networks, frames, name, draw)
