"""Clips laid out to be looked at: one row each, the same moments below one another."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dvgwm.runtime.types import ImageArray

GAP_PX = 2


def sheet(clips: Sequence[ImageArray], columns: int) -> ImageArray:
    """Return one picture, uint8 H W 3, of ``columns`` frames evenly spaced over each clip, uint8 T H W 3."""
    rows = []
    for clip in clips:
        moments = np.linspace(0, len(clip) - 1, columns).round().astype(int)
        rows.append(np.concatenate([np.pad(clip[n], ((0, GAP_PX), (0, GAP_PX), (0, 0))) for n in moments], 1))
    return np.concatenate(rows)


def to_frames(clips: Tensor) -> list[ImageArray]:
    """Return B 3 T H W clips in [-1, 1] as uint8 T H W 3 frames."""
    pixels = ((clips.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 4, 1).cpu().numpy())
