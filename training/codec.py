"""The linear codec of small presets, fitted on demonstrations, and how well it keeps what it was not fitted on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dvgwm.models.codec import LinearCodec, fit
from dvgwm.models.sizes import Preset
from dvgwm.runtime.cameras.image import fit as fit_image
from dvgwm.runtime.types import ImageArray

from .arrays import Arrays
from .config import CodecSettings
from .measures import moving, psnr_db


def to_model(frames: ImageArray, size: tuple[int, int]) -> Tensor:
    """Return uint8 T H W 3 frames as float32 1 3 T h w in [-1, 1], resized as the runtime resizes what its camera sees."""
    resized = np.stack([fit_image(frame, *size) for frame in frames])
    return (torch.from_numpy(resized).permute(3, 0, 1, 2).float() / 127.5 - 1.0)[None]


def clip_of(frames: ImageArray, start: int, length: int) -> ImageArray:
    """Return ``length`` frames from ``start`` on, the last one repeated past the end."""
    return frames[np.minimum(np.arange(start, start + length), len(frames) - 1)]


def fit_codec(
    preset: Preset, size: tuple[int, int], settings: CodecSettings, arrays: Arrays, episodes: Sequence[int]
) -> LinearCodec:
    """Return the preset's linear codec for frames of ``size``, fitted on the first clips of ``episodes``."""
    chosen = episodes[:: max(1, len(episodes) // settings.episodes)][: settings.episodes]
    clips = (to_model(clip_of(arrays.frames(number), 0, preset.frames), size) for number in chosen)
    return fit(clips, preset.codec.patch, preset.codec.channels, settings.whiten)


@torch.no_grad()
def codec_quality(
    preset: Preset, size: tuple[int, int], codec: LinearCodec, arrays: Arrays, episodes: Sequence[int]
) -> dict[str, float]:
    """Return the PSNR in dB of the clips of ``episodes`` at ``size``: in all, of pixels that move, of first frames."""
    rows = []
    for number in episodes:
        clip = to_model(clip_of(arrays.frames(number), 0, preset.frames), size)
        decoded = codec.decode(codec.encode(clip))
        rows.append((psnr_db(decoded, clip), psnr_db(decoded, clip, moving(clip)), first_psnr_db(decoded, clip)))
    kinds = ("psnr_db", "moving_psnr_db", "first_psnr_db")
    return {kind: float(torch.cat(column).mean()) for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)}


def first_psnr_db(frames: Tensor, truth: Tensor) -> Tensor:
    """Return the PSNR of each clip's first frame; dB, float64 B."""
    error = ((frames - truth)[:, :, 0].double() / 2).square().flatten(1).mean(1)
    return -10.0 * torch.log10(error)
