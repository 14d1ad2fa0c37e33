"""The parts of a run, each from its inputs on disk to what it leaves there."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dvgwm.models.build import Networks, build
from dvgwm.models.codec import LinearCodec
from dvgwm.models.presets import LinearCodecSize, Preset
from dvgwm.models.weights import load_parts, load_weights, save_parts, save_tensors
from dvgwm.robots.sim.tasks import TASKS
from dvgwm.runtime import plugins
from dvgwm.runtime.bundle import read_bundle
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.record.reader import open_dataset
from dvgwm.runtime.tokenizer import byte_tokens

from .arrays import open_arrays
from .clips import LatentClips, windows, write_clips
from .codec import codec_quality, fit_codec
from .config import Part, Run
from .data import split
from .joint import JointObjective
from .loop import WEIGHTS, Progress, Watch, train
from .policy import PolicyObjective, Windows
from .preview import PreviewObjective
from .refiner import RefinerObjective
from .upper_bound import act_in_torch, acting_stage, summary, upper_bound
from .watch import look_at_preview

Report = Callable[[Progress], None]
Count = Callable[[int, int], None]
PREVIEWS_WATCHED = 10
CODEC_TESTED = 100
"""Held-out episodes on which a codec is judged."""


def networks_of(run: Run) -> Networks:
    """Return the networks of the run's preset as they are before any training."""
    return build(run.preset, run.seed)


def train_policy(
    run: Run, report: Report, minutes: float | None = None, steps: int | None = None, start: Path | None = None
) -> dict[str, Any]:
    """Train frame encoder and policy and return what came of it."""
    part = run.policy if steps is None else replace(run.policy, steps=steps)
    dataset = open_dataset(run.data.path)
    arrays = open_arrays(run.data.path, run.data.camera)
    learned, held = (Windows(run.preset, arrays, some, part.window, run.seed) for some in split(dataset))
    networks = _started(networks_of(run), start)
    torch.manual_seed(run.seed)
    objective = PolicyObjective(run.preset, networks, part)
    return _trained(part, objective, learned, run, "policy", report, Watch(held), minutes)


def train_preview(
    run: Run, report: Report, minutes: float | None, steps: int | None, start: Path | None, counted: Count
) -> dict[str, Any]:
    """Train the preview and its text encoder on low-resolution latents."""
    part = run.preview if steps is None else replace(run.preview, steps=steps)
    networks = _with_codecs(run)
    learned, held = _clips(run, networks, ("low",), counted)
    torch.manual_seed(run.seed)
    objective = PreviewObjective(run.preset, _started(networks, start), part, tokens_of(run.preset)(""))
    look = look_at_preview(run.preset, networks.low_codec, held, PREVIEWS_WATCHED)
    return _trained(part, objective, learned, run, "preview", report, Watch(held, look), minutes)


def train_refiner(
    run: Run, report: Report, minutes: float | None, steps: int | None, start: Path | None, counted: Count
) -> dict[str, Any]:
    """Train the refiner from degraded latents to high-resolution ones."""
    part = run.refiner if steps is None else replace(run.refiner, steps=steps)
    networks = _with_codecs(run)
    learned, held = _clips(run, networks, ("low", "high", "degraded"), counted)
    _take_text(run, networks)
    objective = RefinerObjective(run.preset, _started(networks, start), part, tokens_of(run.preset)(""))
    return _trained(part, objective, learned, run, "refiner", report, Watch(held), minutes)


def train_joint(
    run: Run, report: Report, minutes: float | None, steps: int | None, start: Path | None, counted: Count
) -> dict[str, Any]:
    """Train refiner and policy by the policy's loss alone, from what their own parts have learned."""
    part = run.joint if steps is None else replace(run.joint, steps=steps)
    networks = _with_codecs(run)
    learned, held = _clips(run, networks, ("low", "high"), counted, acting=True)
    _take_text(run, networks)
    _take_refiner(run, networks)
    _take_policy(run, networks)
    objective = JointObjective(run.preset, _started(networks, start), part)
    return _trained(part, objective, learned, run, "joint", report, Watch(held), minutes)


def collect(run: Run, folder: Path) -> tuple[str, ...]:
    """Write the networks that the run has trained into ``folder``, in half precision, and return their names.

    What the joint phase made goes before what it started from. Raises `ConfigError` where nothing is trained.
    """
    networks, names = networks_of(run), []
    for name, codec in (("low_codec", networks.low_codec), ("codec", networks.codec)):
        if (run.out / name / WEIGHTS).is_file():
            load_weights(codec, _found(run, name))
            names.append(name)
    steps = {
        "policy": (_take_policy, ("frame_encoder", "policy")),
        "preview": (_take_text, ("preview", "text")),
        "refiner": (_take_refiner, ("refiner",)),
        "joint": (_take_joint, ("refiner", "frame_encoder", "policy")),
    }
    for part, (take, made) in steps.items():
        if (run.out / part / WEIGHTS).is_file():
            take(run, networks)
            names += made
    if not names:
        raise ConfigError("WEIGHTS_MISSING", f"{run.out} has nothing trained yet; begin with `dvgwm-train policy`")
    made = tuple(dict.fromkeys(names))
    save_parts(networks, made, folder)
    return made


def tokens_of(preset: Preset) -> Callable[[str], Tensor]:
    """Return what makes tokens, int64 L, of an instruction; raises `ConfigError` where that wants a checkpoint's file."""
    if preset.text.tokenizer != "bytes":
        raise ConfigError("TOKENIZER", f"{preset.name} wants its checkpoint's {preset.text.tokenizer}, not read yet")

    def tokens(words: str) -> Tensor:
        found = byte_tokens(words)
        if len(found) > preset.text.max_tokens:
            raise ConfigError(
                "INSTRUCTION_LONG", f"{words!r} has {len(found)} tokens, at most {preset.text.max_tokens}"
            )
        return torch.tensor(found + [0] * (preset.text.max_tokens - len(found)))

    return tokens


def _with_codecs(run: Run) -> Networks:
    networks = networks_of(run)
    for name, codec in (("low_codec", networks.low_codec), ("codec", networks.codec)):
        if isinstance(codec, LinearCodec):
            load_weights(codec, _found(run, name))
    return networks


def _take_text(run: Run, networks: Networks) -> None:
    """Give ``networks`` the text encoder that was trained with the preview."""
    load_weights(PreviewObjective(run.preset, networks, run.preview, tokens_of(run.preset)("")), _found(run, "preview"))


def _take_refiner(run: Run, networks: Networks) -> None:
    empty = tokens_of(run.preset)("")
    load_weights(RefinerObjective(run.preset, networks, run.refiner, empty), _found(run, "refiner"))


def _take_joint(run: Run, networks: Networks) -> None:
    load_weights(JointObjective(run.preset, networks, run.joint), _found(run, "joint"))


def _take_policy(run: Run, networks: Networks) -> None:
    load_weights(PolicyObjective(run.preset, networks, run.policy), _found(run, "policy"))


def _started(networks: Networks, start: Path | None) -> Networks:
    """Return ``networks`` with what the folder ``start`` has."""
    if start is not None:
        load_parts(networks, start)
    return networks


def _found(run: Run, name: str) -> Path:
    path = run.out / name / WEIGHTS
    if not path.is_file():
        command = "codec" if name.endswith("codec") else name
        raise ConfigError("WEIGHTS_MISSING", f"{path} is not there; make it first with `dvgwm-train {command}`")
    return path


def _clips(
    run: Run, networks: Networks, names: tuple[str, ...], counted: Count, acting: bool = False
) -> tuple[LatentClips, LatentClips]:
    """Return the clips to learn from and to test on, their latents written where they are not there yet."""
    arrays, numbers = open_arrays(run.data.path, run.data.camera), split(open_dataset(run.data.path))
    made = []
    for name, some, later in zip(("train", "test"), numbers, (run.data.later, 0.0), strict=True):
        folder = run.out / "latents" / name
        write_clips(folder, run.preset, networks, arrays, windows(run.preset, arrays, some, later, run.seed), counted)
        made.append(LatentClips(run.preset, folder, names, arrays, tokens_of(run.preset), acting))
    return made[0], made[1]


def fit_codecs(run: Run, report: Callable[[int, int], None]) -> dict[str, Any]:
    """Fit the linear codecs of the preset's two sizes, and return how well they keep held-out clips."""
    preset = run.preset
    if not isinstance(preset.codec, LinearCodecSize):
        raise ConfigError("CODEC_KIND", f"{preset.name} has a VAE, from its checkpoint; wanted a linear codec")
    arrays, (learned, held) = open_arrays(run.data.path, run.data.camera), split(open_dataset(run.data.path))
    tested = held[:: max(1, len(held) // CODEC_TESTED)]
    figures: dict[str, Any] = {}
    for number, (name, size) in enumerate((("low_codec", preset.low), ("codec", preset.high))):
        report(number, 2)
        codec = fit_codec(preset, size, run.codec, arrays, learned)
        save_tensors(codec.state_dict(), run.out / name / WEIGHTS)
        figures[name] = codec_quality(preset, size, codec, arrays, tested)
    report(2, 2)
    return figures


def measure_upper_bound(
    run: Run, episodes: int, seed: int, weights: Path | None, bundle: Path | None, report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Return success and position error of the trained policy, or of a bundle's, on true frames."""
    if bundle is not None:
        opened = read_bundle(bundle)
        with Pipeline(opened, plugins.open_backend(opened.manifest.backend, None)) as pipeline:
            act = acting_stage(next(stage for stage in pipeline.stages if stage.spec.kind == "act"))
            outcomes = upper_bound(run.preset, act, list(TASKS), episodes, seed, report)
        return summary(outcomes) | {"bundle": str(bundle), "seed": seed}
    networks = networks_of(run)
    if weights is None:
        _take_policy(run, networks)
    else:
        load_parts(networks, weights)
    outcomes = upper_bound(run.preset, act_in_torch(run.preset, networks), list(TASKS), episodes, seed, report)
    return summary(outcomes) | {"weights": str(weights or run.out / "policy"), "seed": seed}


def _trained(
    part: Part,
    objective: nn.Module,
    clips: Any,
    run: Run,
    name: str,
    report: Report,
    watch: Watch | None,
    minutes: float | None,
) -> dict[str, Any]:
    reached: list[Progress] = []

    def told(progress: Progress) -> None:
        reached[:] = [progress]
        report(progress)

    path = train(part, objective, clips, run.out / name, run.seed, told, watch, minutes)
    return {"weights": str(path)} | (asdict(reached[0]) if reached else {})
