"""What is looked at while the world model trains: held-out clips imagined, compared and drawn."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from dvgwm.models.sizes import Preset
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec
from dvgwm.runtime.types import ImageArray

from .cascade import Cascade
from .clips import LatentClips, frames_of
from .codec import to_model
from .loop import Look
from .measures import moving, psnr_db
from .preview import PreviewObjective
from .sheet import sheet, to_frames
from .waypoints import WaypointsObjective

LOOK_STEPS, COLUMNS, DRAWN = 10, 7, 4


def look_at_preview(preset: Preset, codec: nn.Module, clips: LatentClips, count: int) -> Look:
    """Return what samples the preview on ``count`` held-out clips: PSNR over the still first frame's, and a picture.

    The picture has the true frames of a clip above the imagined ones, in the preset's steps, at most `LOOK_STEPS`.
    ``unexplained`` is the share of what changes in the pixels that is not told from pure noise, where the network could
    know everything: what it has learned, whatever the sampler. One that draws along a path is also given the true one,
    ``on_path_unexplained``: what it cannot draw.
    """
    # Drawn, not every n-th: episodes take turns at the tasks.
    picked = np.random.default_rng(0).permutation(len(clips))[:count]
    chosen = [clips[int(n)] for n in picked]
    clean, tokens = (torch.stack([clip[name] for clip in chosen]) for name in ("low", "tokens"))
    poses = torch.stack([clip["poses"] for clip in chosen]) if "poses" in chosen[0] else None
    sampling = preset.sampling
    rows, first = (
        build_sampler(SamplerSpec("ddim_v", steps, snr_shift=sampling.preview_snr_shift))
        for steps in (min(LOOK_STEPS, sampling.preview_steps), 1)
    )
    truth = frames_of(codec, clean, preset.preview_scaling)

    def look(objective: PreviewObjective) -> tuple[Mapping[str, float], Mapping[str, ImageArray]]:
        device = objective.levels.alpha.device
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        inputs = noise.to(device), tokens.to(device), clean[:, :1].to(device)
        imagined, once = (drawn(objective.imagine(sampler_rows, *inputs)) for sampler_rows in (rows, first))
        figures, pictures = judged(imagined, truth)
        figures = {**figures, "unexplained": missed(once)}
        if poses is not None:
            figures["on_path_unexplained"] = missed(drawn(objective.imagine(first, *inputs, poses.to(device))))
        return figures, pictures

    def drawn(latents: Tensor) -> Tensor:
        return frames_of(codec, latents.float().cpu(), preset.preview_scaling)

    def missed(frames: Tensor) -> float:
        return float((frames - truth).square().mean() / (truth[:, :, :1] - truth).square().mean())

    return look


def look_at_waypoints(preset: Preset, clips: LatentClips, count: int) -> Look:
    """Return what tells ``pose_error_mm``, how far the waypoints of ``count`` held-out clips are from the tool's path."""
    drawn = np.random.default_rng(0).permutation(len(clips))[:count]
    batch = default_collate([clips[int(n)] for n in drawn])
    upper, lower = (torch.tensor(bounds[:3]) for bounds in (preset.actions.upper, preset.actions.lower))

    def look(objective: WaypointsObjective) -> tuple[Mapping[str, float], Mapping[str, ImageArray]]:
        device = next(objective.parameters()).device
        poses = objective.poses({name: tensor.to(device) for name, tensor in batch.items()}).float().cpu()
        off_m = (poses - batch["poses"])[..., :3] * (upper - lower) / 2
        return {"pose_error_mm": 1000.0 * float(off_m.norm(dim=-1).mean())}, {}

    return look


def look_at_refiner(preset: Preset, cascade: Cascade, clips: LatentClips, count: int) -> Look:
    """Return what imagines ``count`` held-out clips with the whole cascade: PSNR over the still first frame's, and a picture.

    Also the preview's own, enlarged: what the refiner adds is the difference.
    """
    drawn = [int(n) for n in np.random.default_rng(0).permutation(len(clips))[:count]]
    truth = torch.cat([to_model(clips.frames(n), preset.high) for n in drawn])
    first_frames, instructions = [clips.frames(n)[0] for n in drawn], [clips.instruction(n) for n in drawn]

    def look(_: nn.Module) -> tuple[Mapping[str, float], Mapping[str, ImageArray]]:
        low, high = cascade.latents(first_frames, instructions, seed=0)
        alone = judged(cascade.enlarged(low), truth)[0]
        figures, pictures = judged(frames_of(cascade.networks.codec, high, preset.refiner_scaling), truth)
        return {**figures, **{f"preview_{name}": value for name, value in alone.items()}}, pictures

    return look


def judged(imagined: Tensor, truth: Tensor) -> tuple[Mapping[str, float], Mapping[str, ImageArray]]:
    """Return how far imagined clips B 3 T H W are better than the first frame held still, in dB, and a picture of both."""
    still, where = truth[:, :, :1].expand_as(truth), moving(truth)
    figures = {
        "psnr_db": psnr_db(imagined, truth),
        "psnr_over_still_db": psnr_db(imagined, truth) - psnr_db(still, truth),
        "moving_psnr_over_still_db": psnr_db(imagined, truth, where) - psnr_db(still, truth, where),
    }
    pairs = [clip for pair in zip(to_frames(truth[:DRAWN]), to_frames(imagined[:DRAWN]), strict=True) for clip in pair]
    return {name: float(value.mean()) for name, value in figures.items()}, {"imagined": sheet(pairs, COLUMNS)}
