"""A run's settings, one TOML file per preset: every part's steps, optimiser and schedule."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from dvgwm.models.presets import preset
from dvgwm.models.sizes import Preset
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.strict import read_toml, strict

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True, slots=True)
class DataSettings:
    """The demonstrations of a run; ``later`` is the mean number of clips per episode with a start inside it."""

    path: Path
    camera: str = "scene"
    later: float = 0.35


@dataclass(frozen=True, slots=True)
class CodecSettings:
    """The fit of the linear codecs: the number of episodes, and how far their channels' deviations are evened out.

    With ``whiten`` .65 the power .35 of a channel's deviation is left.
    """

    episodes: int = 200
    whiten: float = 0.65


@dataclass(frozen=True, slots=True)
class PartSettings:
    """One training loop; the defaults are the paper's (AdamW, betas .9 and .95, weight decay 1e-4, clip .1).

    ``optimiser`` muon orthogonalises the updates of hidden matrices and leaves the rest to AdamW. The learning rate
    rises over ``warmup`` steps and falls to zero over the last ``decay`` of the run. ``ema`` is the moving average's
    decay. ``precision`` is float32 or bf16 (autocast). With ``lora_rank`` only adapters train; ``shard`` spreads the
    weights over the processes (FSDP).
    """

    steps: int
    batch: int = 4
    learning_rate: float = 5e-4
    optimiser: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    clip: float = 0.1
    warmup: int = 100
    decay: float = 0.2
    ema: float = 0.999
    precision: str = "auto"
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    shard: bool = False
    workers: int = 0
    log_every: int = 20
    watch_every: int = 500
    checkpoint_every: int = 250


@dataclass(frozen=True, slots=True)
class PreviewPart(PartSettings):
    """The preview's loop; the drops are for guidance (CogVideoX: .1 and .05).

    ``lean`` draws steps near pure noise more often; ``moving_weight`` adds to the weight of moving latents; ``loudness``
    weights channels by their size in pixels (`objectives.channel_weight`).
    """

    lean: float = 0.0
    moving_weight: float = 0.0
    loudness: float = 0.0
    drop_text: float = 0.1
    drop_image: float = 0.05


@dataclass(frozen=True, slots=True)
class WaypointsPart(PartSettings):
    """The waypoints' loop, for presets with waypoints; a small network: it sees many layouts a second."""

    steps: int = 7000
    batch: int = 64
    learning_rate: float = 3e-3
    clip: float = 1.0
    decay: float = 0.6
    ema: float = 0.995


@dataclass(frozen=True, slots=True)
class RefinerPart(PartSettings):
    """The refiner's loop; the strength of its latent degradation is drawn from ``strength`` (steps of the shift-1 grid).

    ``pixel_share`` of the clips start from degraded pixels (Eq. A.1), the others from the preview's latents: true ones, or
    for a share ``generated`` of them the preview's own from a step of ``told_at``. All are then degraded as latents (Eq. A.3).
    ``loudness`` weights channels by their size in pixels.
    """

    strength: tuple[int, int] = (100, 400)
    pixel_share: float = 0.5
    generated: float = 0.0
    told_at: tuple[int, int] = (500, 999)
    loudness: float = 0.0
    drop_text: float = 0.0


@dataclass(frozen=True, slots=True)
class PolicyPart(PartSettings):
    """The policy's loop (Chi et al. 2023): ``window`` frames of an episode at a time, ``draws`` of noise per chunk.

    Short windows of many episodes show a step more layouts than whole ones of a few.
    ``disturb`` is the strength of changes of brightness, noise and blur, for imagined frames are soft; ``pose_weight`` is
    the weight of the auxiliary loss, the tool's pose told from each frame.
    """

    window: int = 4
    draws: int = 10
    disturb: float = 0.0
    pose_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class JointPart(PartSettings):
    """The paper's second phase: the policy's loss alone, through the decoder and the last ``refine_steps`` of the refiner.

    A share ``generated`` of the clips is the preview's own from a step of ``told_at``.
    """

    refine_steps: int = 1
    draws: int = 8
    generated: float = 0.0
    told_at: tuple[int, int] = (500, 999)


@dataclass(frozen=True, slots=True)
class Run:
    """A whole training: a preset, its folder, and its parts."""

    preset: Preset
    out: Path
    seed: int
    data: DataSettings
    codec: CodecSettings
    waypoints: WaypointsPart
    preview: PreviewPart
    refiner: RefinerPart
    policy: PolicyPart
    tune: PolicyPart
    joint: JointPart


def read_run(name: str, out: Path | None = None) -> Run:
    """Return the run called ``name`` (a shipped configuration, or a TOML file's path).

    Raises `ConfigError` for a missing file, and an unknown, missing or wrong setting.
    """
    path = Path(name) if name.endswith(".toml") else CONFIGS / f"{name}.toml"
    try:
        table = read_toml(path)
    except FileNotFoundError:
        shipped = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.toml")))
        raise ConfigError("RUN_UNKNOWN", f"wanted a run of {shipped} or a .toml file; got {name}") from None
    except (OSError, ValueError) as error:
        raise ConfigError("RUN_SYNTAX", f"{path}: {error}") from None
    kinds = {name: kind for name, kind in get_type_hints(Run).items() if name not in ("preset", "out", "seed")}
    if unknown := sorted(table.keys() - kinds.keys() - {"preset", "out", "seed"}):
        raise ConfigError("RUN_SETTING", f"{path.name}: unknown {', '.join(unknown)}; there are {', '.join(kinds)}")
    parts = {name: _part(path.name, name, kind, table.get(name, {})) for name, kind in kinds.items()}
    where = Path(out if out is not None else table.get("out", f"runs/{path.stem}"))
    return Run(preset(table.get("preset", path.stem)), where, int(table.get("seed", 0)), **parts)


def _part(file: str, name: str, kind: type[Any], table: Any) -> Any:
    try:
        return strict(table, kind)
    except ValueError as error:
        known = ", ".join(field.name for field in fields(kind))
        raise ConfigError("RUN_SETTING", f"{file}: [{name}] {error}; there are {known}") from None


def changed(part: Any, **values: Any) -> Any:
    """Return ``part`` with the ``values`` other than None."""
    return replace(part, **{key: value for key, value in values.items() if value is not None})
