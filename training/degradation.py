"""What the refiner learns to undo: pixels lost to a smaller size (DVG-WM, Eq. A.1)."""

from torch import Tensor
from torch.nn import functional

KERNELS = ("area", "bilinear", "bicubic")


def degrade_pixels(frames: Tensor, size: tuple[int, int], draw: float) -> Tensor:
    """Return ``resize_HR(downsample(x_hr))`` of B 3 T H W frames, by way of ``size``.

    ``draw`` in [0, 1) chooses how the pixels are lost: by area, bilinearly or bicubically, both antialiased.
    """
    mode = KERNELS[int(draw * len(KERNELS))]
    flat = frames.transpose(1, 2).flatten(0, 1)
    smooth = {} if mode == "area" else {"align_corners": False, "antialias": True}
    smaller = functional.interpolate(flat, size, mode=mode, **smooth)  # type: ignore[arg-type]
    larger = functional.interpolate(smaller, frames.shape[-2:], mode="bilinear", align_corners=False)
    return larger.clamp(-1.0, 1.0).unflatten(0, (frames.shape[0], -1)).transpose(1, 2)
