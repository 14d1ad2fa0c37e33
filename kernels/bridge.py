"""The refiner's start in one pass: preview latents rescaled, upsampled linearly, mixed with given noise (DVG-WM, Eq. A.8)."""

import torch
from torch import Tensor

from .language import ceil_div, jit, tl
from .launch import Launch, compiled, named
from .operator import operator, wide_dtype
from .variant import Variant

BLOCK, WARPS = 512, 4


@jit
def bridge_kernel(
    latents_ptr, scale_ptr, shift_ptr, noise_ptr, output_ptr, signal, strength,
    frames, channels, height, width, to_frames, to_height, to_width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(1)  # one channel of one frame of the result
    frame, channel = plane // channels, plane % channels
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < to_height * to_width
    row, column = pixel // to_width, pixel % to_width
    at_t = tl.minimum(tl.maximum((frame + 0.5) * frames / to_frames - 0.5, 0.0), frames - 1.0)
    at_y = tl.minimum(tl.maximum((row + 0.5) * height / to_height - 0.5, 0.0), height - 1.0)
    at_x = tl.minimum(tl.maximum((column + 0.5) * width / to_width - 0.5, 0.0), width - 1.0)
    t0, y0, x0 = at_t.to(tl.int32), at_y.to(tl.int32), at_x.to(tl.int32)
    t1, y1, x1 = tl.minimum(t0 + 1, frames - 1), tl.minimum(y0 + 1, height - 1), tl.minimum(x0 + 1, width - 1)
    wt, wy, wx = at_t - t0, at_y - y0, at_x - x0
    mixed = tl.zeros((BLOCK,), tl.float32)
    for i in tl.static_range(2):
        t, share_t = (t1, wt) if i else (t0, 1 - wt)
        for j in tl.static_range(2):
            y, share_y = (y1, wy) if j else (y0, 1 - wy)
            line = latents_ptr + ((t * channels + channel) * height + y) * width
            left = tl.load(line + x0, inside, other=0.0).to(tl.float32)
            right = tl.load(line + x1, inside, other=0.0).to(tl.float32)
            mixed += share_t * share_y * (left * (1 - wx) + right * wx)
    mixed = mixed * tl.load(scale_ptr + channel) + tl.load(shift_ptr + channel)
    target = plane.to(tl.int64) * (to_height * to_width) + pixel
    noise = tl.load(noise_ptr + target, inside, other=0.0).to(tl.float32)
    tl.store(output_ptr + target, (signal * mixed + strength * noise).to(output_ptr.dtype.element_ty), inside)


def plain_bridge(
    latents: Tensor, scale: Tensor, shift: Tensor, noise: Tensor, signal: float, strength: float
) -> Tensor:
    """Return ``signal U(scale latents + shift) + strength noise`` in the noise's shape and dtype; the kernel's twin.

    ``latents`` is 1 T C h w, ``noise`` 1 T' C H W, ``scale`` and ``shift`` float32 C; U is linear without aligned corners.
    """
    wide = wide_dtype(latents.dtype)
    rescaled = latents.to(wide) * scale[:, None, None].to(wide) + shift[:, None, None].to(wide)
    size = (noise.shape[1], *noise.shape[3:])
    upsampled = torch.nn.functional.interpolate(rescaled.transpose(1, 2), size, mode="trilinear", align_corners=False)
    return (signal * upsampled.transpose(1, 2) + strength * noise.to(wide)).to(noise.dtype).contiguous()


def launch_bridge(
    latents: Tensor, scale: Tensor, shift: Tensor, noise: Tensor, signal: float, strength: float
) -> tuple[Launch, Tensor]:
    """Return the launch and what it writes."""
    _, frames, channels, height, width = latents.shape
    _, to_frames, _, to_height, to_width = noise.shape
    output = noise.new_empty(noise.shape)
    tensors = latents.contiguous(), scale.float(), shift.float(), noise.contiguous(), output
    sizes = frames, channels, height, width, to_frames, to_height, to_width
    grid = ceil_div(to_height * to_width, BLOCK), to_frames * channels
    arguments = named(bridge_kernel, *tensors, signal, strength, *sizes)
    return Launch(bridge_kernel, grid, arguments, {"BLOCK": BLOCK}, WARPS), output


compiled_bridge = compiled(launch_bridge)
bridge = operator(plain_bridge, compiled_bridge)


def variants(architecture: int) -> tuple[Variant, ...]:
    """Return the forms to compile: float32 as between engines, and bfloat16."""
    sizes = ("frames", "channels", "height", "width", "to_frames", "to_height", "to_width")
    forms = []
    for dtype in ("fp32", "bf16"):
        signature = {"latents_ptr": f"*{dtype}", "scale_ptr": "*fp32", "shift_ptr": "*fp32"}
        signature |= {"noise_ptr": f"*{dtype}", "output_ptr": f"*{dtype}", "signal": "fp32", "strength": "fp32"}
        signature |= dict.fromkeys(sizes, "i32")
        forms.append(Variant(f"bridge_{dtype}", bridge_kernel, signature, {"BLOCK": BLOCK}, WARPS))
    return tuple(forms)
