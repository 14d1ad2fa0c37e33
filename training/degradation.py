"""What the refiner learns to undo: pixels lost to a smaller size, and latents raised from a smaller grid."""

from torch import Tensor
from torch.nn import functional

from dvgwm.models.denoisers import rescaling
from dvgwm.models.sizes import Scaling

KERNELS = ("area", "bilinear", "bicubic")


def degrade_pixels(frames: Tensor, size: tuple[int, int], draw: float) -> Tensor:
    """Return ``resize_HR(downsample(x_hr))`` of B 3 T H W frames, by way of ``size`` (DVG-WM, Eq. A.1).

    ``draw`` in [0, 1) chooses how the pixels are lost: by area, bilinearly or bicubically, the last two antialiased.
    """
    mode = KERNELS[int(draw * len(KERNELS))]
    flat = frames.transpose(1, 2).flatten(0, 1)
    smooth = {} if mode == "area" else {"align_corners": False, "antialias": True}
    smaller = functional.interpolate(flat, size, mode=mode, **smooth)
    larger = functional.interpolate(smaller, frames.shape[-2:], mode="bilinear", align_corners=False)
    return larger.clamp(-1.0, 1.0).unflatten(0, (frames.shape[0], -1)).transpose(1, 2)


def raised(latents: Tensor, grid: tuple[int, int], low: Scaling, high: Scaling) -> Tensor:
    """Return ``U(z_lr)``: B T C h w latents of the preview rescaled to the refiner's and upsampled to ``grid`` (Eq. A.8)."""
    scale, shift = (latents.new_tensor(values).view(-1, 1, 1) for values in rescaling(low, high))
    flat = (latents * scale + shift).flatten(0, 1)
    return functional.interpolate(flat, grid, mode="bilinear", align_corners=False).unflatten(0, latents.shape[:2])
