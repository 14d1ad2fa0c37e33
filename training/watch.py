"""What is looked at while the world model trains: held-out clips imagined, compared and drawn."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dvgwm.models.presets import Preset
from dvgwm.runtime.sampler import SamplerSpec, table
from dvgwm.runtime.types import ImageArray

from .cascade import Cascade
from .clips import LatentClips, frames_of
from .codec import to_model
from .measures import moving, psnr_db
from .preview import PreviewObjective
from .sheet import sheet, to_frames

LOOK_STEPS, COLUMNS, DRAWN = 10, 7, 4

Look = Callable[[Any], tuple[Mapping[str, float], Mapping[str, ImageArray]]]


def look_at_preview(preset: Preset, codec: nn.Module, clips: LatentClips, count: int) -> Look:
    """Return what samples the preview on ``count`` held-out clips: PSNR over the still first frame's, and a picture.

    The picture has the true frames of a clip above the imagined ones. ``unexplained`` is the share of what changes in the
    pixels that is not told from pure noise, where the network could know everything: what it has learned, whatever the sampler.
    ``pose_error_mm`` is how far the poses told with it are from the tool's.
    """
    # Drawn, not every n-th: episodes take turns at the tasks.
    drawn = np.random.default_rng(0).permutation(len(clips))[:count]
    chosen = [clips[int(n)] for n in drawn]
    clean, tokens = (torch.stack([clip[name] for clip in chosen]) for name in ("low", "tokens"))
    poses = torch.stack([clip["poses"] for clip in chosen]) if "poses" in chosen[0] else torch.empty(0)
    upper, lower = (torch.tensor(bounds[:3]) for bounds in (preset.actions.upper, preset.actions.lower))
    half_m = (upper - lower) / 2
    rows, first = (
        table(SamplerSpec("ddim_v", steps, snr_shift=preset.sampling.preview_snr_shift)) for steps in (LOOK_STEPS, 1)
    )

    def look(objective: PreviewObjective) -> tuple[Mapping[str, float], Mapping[str, ImageArray]]:
        device = objective.alpha.device
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        inputs = noise.to(device), tokens.to(device), clean[:, :1].to(device)
        made, told = (objective.imagine(some, *inputs).float().cpu() for some in (rows, first))
        imagined, once, truth = (frames_of(codec, some, preset.preview_scaling) for some in (made, told, clean))
        figures, pictures = judged(imagined, truth)
        missed, all_ = ((frames - truth).square().mean() for frames in (once, truth[:, :, :1]))
        figures = {**figures, "unexplained": float(missed / all_)}
        if objective.pose is not None:  # the hidden tokens are those of pure noise, imagined last
            off_m = (objective.poses(clean.shape[1]).float().cpu() - poses)[..., :3] * half_m
            figures["pose_error_mm"] = 1000.0 * float(off_m.norm(dim=-1).mean())
        return figures, pictures

    return look


def look_at_refiner(preset: Preset, cascade: Cascade, clips: LatentClips, count: int) -> Look:
    """Return what imagines ``count`` held-out clips with the whole cascade: PSNR over the still first frame's, and a picture.

    Also the preview's own, enlarged: what the refiner adds is the difference.
    """
    drawn = [int(n) for n in np.random.default_rng(0).permutation(len(clips))[:count]]
    truth = torch.cat([to_model(clips.frames(n), preset.high) for n in drawn])
    firsts, words = [clips.frames(n)[0] for n in drawn], [clips.instruction(n) for n in drawn]

    def look(_: nn.Module) -> tuple[Mapping[str, float], Mapping[str, ImageArray]]:
        low, high = cascade.latents(firsts, words, seed=0)
        alone = judged(cascade.enlarged(low), truth)[0]
        figures, pictures = judged(frames_of(cascade.networks.codec, high, preset.refiner_scaling), truth)
        return {**figures, **{f"preview_{name}": value for name, value in alone.items()}}, pictures

    return look


def judged(made: Tensor, truth: Tensor) -> tuple[Mapping[str, float], Mapping[str, ImageArray]]:
    """Return how far imagined clips B 3 T H W are better than the first frame held still, in dB, and a picture of both."""
    still, where = truth[:, :, :1].expand_as(truth), moving(truth)
    figures = {
        "psnr_db": psnr_db(made, truth),
        "psnr_over_still_db": psnr_db(made, truth) - psnr_db(still, truth),
        "moving_psnr_over_still_db": psnr_db(made, truth, where) - psnr_db(still, truth, where),
    }
    pairs = [clip for pair in zip(to_frames(truth[:DRAWN]), to_frames(made[:DRAWN]), strict=True) for clip in pair]
    return {name: float(value.mean()) for name, value in figures.items()}, {"imagined": sheet(pairs, COLUMNS)}
