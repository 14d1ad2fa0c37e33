"""How close imagined frames come to the true ones."""

import torch
from torch import Tensor

MOVED = 0.06
"""A pixel moves in a clip where some channel changes from the first frame by more than this, of a range of 1."""


def moving(frames: Tensor) -> Tensor:
    """Return which pixels of B 3 T H W frames in [-1, 1] differ from the first frame's, bool B 1 T H W."""
    return ((frames - frames[:, :, :1]).abs().amax(1, keepdim=True) / 2) > MOVED


def psnr_db(frames: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Return the PSNR of each B 3 T H W clip in [-1, 1] but for its first frame, which is given; dB, float64 B.

    ``where``, bool B 1 T H W, keeps to some pixels; a clip without any is infinitely good.
    """
    error = ((frames - truth)[:, :, 1:].double() / 2).square()
    if where is None:
        mean = error.flatten(1).mean(1)
    else:
        kept = where[:, :, 1:].expand_as(error)
        mean = (error * kept).flatten(1).sum(1) / kept.flatten(1).sum(1).clamp_min(1)
    return -10.0 * torch.log10(mean)
