"""What is looked at while the world model trains: held-out clips imagined, compared and drawn."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dvgwm.models.presets import Preset
from dvgwm.runtime.sampler import SamplerSpec, table
from dvgwm.runtime.types import ImageArray

from .clips import LatentClips, decode, unscaled
from .measures import moving, psnr_db
from .preview import PreviewObjective
from .sheet import sheet, to_frames

LOOK_STEPS, COLUMNS, DRAWN = 10, 7, 4

Looks = Callable[[Any, int], tuple[Mapping[str, float], Mapping[str, ImageArray]]]


def look_at_preview(preset: Preset, codec: nn.Module, clips: LatentClips, count: int, batch: int) -> Looks:
    """Return what samples the preview on ``count`` held-out clips: PSNR in all and where it moves, over the still frame's."""
    chosen = [clips[n] for n in range(0, len(clips), max(1, len(clips) // count))][:count]
    rows = table(SamplerSpec("ddim_v", LOOK_STEPS, snr_shift=preset.sampling.preview_snr_shift))

    def look(objective: PreviewObjective, step: int) -> tuple[Mapping[str, float], Mapping[str, ImageArray]]:
        device = objective.alpha.device
        made, truth = [], []
        for at in range(0, len(chosen), batch):
            clean = torch.stack([clip["low"] for clip in chosen[at : at + batch]]).to(device)
            tokens = torch.stack([clip["tokens"] for clip in chosen[at : at + batch]]).to(device)
            noise = torch.randn(clean.shape, generator=torch.Generator(device).manual_seed(at), device=device)
            with torch.autocast(device.type, torch.bfloat16):
                latents = objective.imagine(rows, noise, tokens, clean[:, :1])
            made.append(_frames(preset, codec, latents))
            truth.append(_frames(preset, codec, clean))
        return _judged(torch.cat(made), torch.cat(truth))

    return look


def _frames(preset: Preset, codec: nn.Module, latents: Tensor) -> Tensor:
    return decode(codec, unscaled(latents.float().cpu(), preset.preview_scaling))


def _judged(made: Tensor, truth: Tensor) -> tuple[Mapping[str, float], Mapping[str, ImageArray]]:
    still, where = truth[:, :, :1].expand_as(truth), moving(truth)
    figures = {
        "psnr_db": psnr_db(made, truth),
        "psnr_over_still_db": psnr_db(made, truth) - psnr_db(still, truth),
        "moving_psnr_over_still_db": psnr_db(made, truth, where) - psnr_db(still, truth, where),
    }
    pairs = [clip for pair in zip(to_frames(truth[:DRAWN]), to_frames(made[:DRAWN]), strict=True) for clip in pair]
    return {name: float(value.mean()) for name, value in figures.items()}, {"imagined": sheet(pairs, COLUMNS)}
