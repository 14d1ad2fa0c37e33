"""``SiLU(GroupNorm(f) y + b)`` behind two frames of causal padding: the VAE decoder's norm, ready for its convolution.

CogVideoXSpatialNorm3D upsamples the latents to the size of f and convolves them 1x1x1 to y and b. Nearest upsampling and
a 1x1x1 convolution commute: y and b come at latent size, and each pixel of f looks up its own. All is channels_last_3d, so
a convolution over three frames reads the result as it is, and its last two frames are the next chunk's cache.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from .language import ceil_div, jit, power_of_two, tl
from .launch import Launch, compiled, named
from .operator import operator, wide_dtype
from .variant import Variant

PAD = 2
"""Frames before the result: what a causal convolution over three frames looks back on."""
PROGRAMS = 1024
"""The most partial statistics: blocks enough for any GPU, and the same for each, so that sums are too."""
MOMENTS_TILE, MERGE_TILE, TILE, WARPS = 2048, 4096, 4096, 4
"""Elements that a block of each kernel holds at a time: of the moments fewer, for each has three numbers in registers."""
GRID_LIMIT = 65_535
"""Blocks along a grid's second axis (CUDA)."""


@jit
def moments_kernel(f_ptr, partial_ptr, rows, steps, C: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    channel = tl.arange(0, CHANNELS)
    lane = tl.arange(0, BLOCK)
    first = tl.program_id(0).to(tl.int64) * steps * BLOCK
    # The first row is a shift: what is summed stays small next to the spread, however far from 0 the mean is.
    shift = tl.load(f_ptr + first * C + channel, channel < C, other=0.0).to(tl.float32)[None, :]
    mean = tl.zeros((BLOCK, CHANNELS), tl.float32)
    square = tl.zeros((BLOCK, CHANNELS), tl.float32)
    for step in range(steps):  # Welford, each element of the tile for itself: no reduction inside the loop
        row = first + step * BLOCK + lane
        inside = (row < rows)[:, None]
        if CHANNELS > C:
            inside = inside & (channel < C)[None, :]
        x = tl.load(f_ptr + row[:, None] * C + channel[None, :], inside, other=0.0).to(tl.float32) - shift
        delta = tl.where(inside, x - mean, 0.0)
        mean += delta * (1.0 / (step + 1))
        square += delta * (x - mean)
    count = tl.minimum(tl.maximum((rows - first - lane + BLOCK - 1) // BLOCK, 0), steps).to(tl.float32)[:, None]
    whole = tl.sum(mean * count, 0) / tl.sum(count)
    square = tl.sum(square + count * (mean - whole[None, :]) * (mean - whole[None, :]), 0)
    target = partial_ptr + tl.program_id(0).to(tl.int64) * 2 * C + channel
    tl.store(target, whole + tl.sum(shift, 0), channel < C)
    tl.store(target + C, square, channel < C)


@jit
def merge_kernel(
    partial_ptr, weight_ptr, statistics_ptr, rows, chunk, programs, epsilon,
    C: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0)
    lane = tl.arange(0, LANES)
    channel = group * WIDTH + lane
    base = tl.load(partial_ptr + group * WIDTH)
    total = rows.to(tl.float32) * WIDTH
    moved = tl.zeros((BLOCK, LANES), tl.float32)
    for start in range(0, programs, BLOCK):
        program = (start + tl.arange(0, BLOCK)).to(tl.int64)
        inside = (program < programs)[:, None] & (lane < WIDTH)[None, :]
        count = tl.minimum(rows - program * chunk, chunk).to(tl.float32)[:, None]
        mean = tl.load(partial_ptr + program[:, None] * (2 * C) + channel[None, :], inside, other=0.0)
        moved += tl.where(inside, (mean - base) * count, 0.0)
    offset = tl.sum(tl.sum(moved, 1), 0) / total
    square = tl.zeros((BLOCK, LANES), tl.float32)
    for start in range(0, programs, BLOCK):
        program = (start + tl.arange(0, BLOCK)).to(tl.int64)
        inside = (program < programs)[:, None] & (lane < WIDTH)[None, :]
        count = tl.minimum(rows - program * chunk, chunk).to(tl.float32)[:, None]
        source = partial_ptr + program[:, None] * (2 * C) + channel[None, :]
        apart = tl.load(source, inside, other=0.0) - base - offset
        square += tl.where(inside, tl.load(source + C, inside, other=0.0) + count * apart * apart, 0.0)
    scale = 1.0 / tl.sqrt_rn(tl.sum(tl.sum(square, 1), 0) / total + epsilon)
    weight = tl.load(weight_ptr + channel, lane < WIDTH, other=0.0).to(tl.float32)
    tl.store(statistics_ptr + channel, base + offset, lane < WIDTH)
    tl.store(statistics_ptr + C + channel, scale * weight, lane < WIDTH)


@jit
def spatial_norm_kernel(
    f_ptr, statistics_ptr, bias_ptr, y_ptr, b_ptr, cache_ptr, result_ptr,
    frames, pixels, width, latent_frames, latent_height, latent_width,
    frame_scale, row_scale, column_scale, lead, cached,
    C: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    frame = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, CHANNELS)
    inside = (pixel < pixels)[:, None]
    if CHANNELS > C:
        inside = inside & (channel < C)[None, :]
    at = pixel.to(tl.int64)[:, None] * C + channel[None, :]
    plane = pixels.to(tl.int64) * C
    if frame < frames:
        # torch's nearest, in its float32; with a lead the first frame has the first latent frame to itself.
        after = tl.minimum(((frame - lead).to(tl.float32) * frame_scale).to(tl.int32), latent_frames - 1 - lead)
        latent_frame = tl.where(frame < lead, 0, after + lead)
        row = pixel // width
        latent_row = tl.minimum((row.to(tl.float32) * row_scale).to(tl.int32), latent_height - 1)
        column = ((pixel - row * width).to(tl.float32) * column_scale).to(tl.int32)
        column = tl.minimum(column, latent_width - 1)
        place = ((latent_frame * latent_height + latent_row) * latent_width + column).to(tl.int64)
        source = place[:, None] * C + channel[None, :]
        known = channel < C
        mean = tl.load(statistics_ptr + channel, known, other=0.0)[None, :]
        scale = tl.load(statistics_ptr + C + channel, known, other=0.0)[None, :]
        bias = tl.load(bias_ptr + channel, known, other=0.0).to(tl.float32)[None, :]
        x = tl.load(f_ptr + frame * plane + at, inside, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + source, inside, other=0.0).to(tl.float32)
        b = tl.load(b_ptr + source, inside, other=0.0).to(tl.float32)
        x = ((x - mean) * scale + bias) * y + b
        x = (x / (1.0 + tl.exp(-x))).to(result_ptr.dtype.element_ty)
        tl.store(result_ptr + (frame + 2) * plane + at, x, inside)
        if (frame == 0) & (cached == 0):
            tl.store(result_ptr + at, x, inside)
            tl.store(result_ptr + plane + at, x, inside)
    else:
        x = tl.load(cache_ptr + (frame - frames) * plane + at, inside, other=0.0)
        tl.store(result_ptr + (frame - frames) * plane + at, x.to(result_ptr.dtype.element_ty), inside)


def plain_spatial_norm(
    f: Tensor, weight: Tensor, bias: Tensor, y: Tensor, b: Tensor, cache: Tensor | None, groups: int, eps: float
) -> Tensor:
    """Return 1 C T+2 H W, channels_last_3d in the dtype of ``f``; the twin of `compiled_spatial_norm`.

    ``f`` is 1 C T H W, ``weight`` and ``bias`` are C, ``y`` and ``b`` 1 C t h w at latent size. The first two frames are
    ``cache``, 1 C 2 H W, or without one the result's own first frame twice. Raises ValueError for other shapes.
    """
    _check(f, weight, bias, y, b, cache, groups)
    wide = wide_dtype(f.dtype)
    normed = functional.group_norm(f.to(wide), groups, weight.to(wide), bias.to(wide), eps)
    size = tuple(f.shape[2:])
    shaped = functional.silu(normed * _upsampled(y.to(wide), size) + _upsampled(b.to(wide), size)).to(f.dtype)
    past = shaped[:, :, :1].expand(-1, -1, PAD, -1, -1) if cache is None else cache.to(f.dtype)
    return torch.cat([past, shaped], 2).contiguous(memory_format=torch.channels_last_3d)


def _upsampled(small: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return 1 C t h w as 1 C T H W, each from its nearest; of an odd number of frames the first stands apart."""
    if _lead(size[0]) == 0:
        return functional.interpolate(small, size)
    first, rest = functional.interpolate(small[:, :, :1], (1, *size[1:])), (size[0] - 1, *size[1:])
    return torch.cat([first, functional.interpolate(small[:, :, 1:], rest)], 2)


def _lead(frames: int) -> int:
    """Return how many frames stand apart in front: one of any odd number but 1."""
    return 1 if frames > 1 and frames % 2 == 1 else 0


def _check(f: Tensor, weight: Tensor, bias: Tensor, y: Tensor, b: Tensor, cache: Tensor | None, groups: int) -> None:
    """Raise ValueError unless the shapes fit."""
    if f.dim() != 5 or f.shape[0] != 1 or f.numel() == 0:
        raise ValueError(f"wanted f as 1 C T H W, one video at a time; got {tuple(f.shape)}")
    channels, frames = f.shape[1], f.shape[2]
    if groups < 1 or channels % groups or weight.shape != (channels,) or bias.shape != (channels,):
        raise ValueError(f"wanted {channels} weights and biases, {groups} groups to divide them; got {weight.numel()}")
    if y.dim() != 5 or y.shape != b.shape or y.shape[:2] != f.shape[:2] or y.numel() == 0:
        raise ValueError(f"wanted y and b as 1 {channels} t h w; got {tuple(y.shape)} and {tuple(b.shape)}")
    if y.shape[2] <= _lead(frames):
        raise ValueError(f"wanted two latent frames or more for {frames} frames; got {y.shape[2]}")
    if cache is not None and cache.shape != (1, channels, PAD, *f.shape[3:]):
        raise ValueError(f"wanted a cache of the last {PAD} frames of {tuple(f.shape)}; got {tuple(cache.shape)}")


def launch_spatial_norm(
    f: Tensor, weight: Tensor, bias: Tensor, y: Tensor, b: Tensor, cache: Tensor | None, groups: int, eps: float
) -> tuple[tuple[Launch, ...], Tensor]:
    """Return three launches and what they write: moments in parts, merged, applied; no atomics. float64 is the twin's."""
    if f.dtype == torch.float64:
        return (), plain_spatial_norm(f, weight, bias, y, b, cache, groups, eps)
    _check(f, weight, bias, y, b, cache, groups)
    _, channels, frames, height, width = f.shape
    if frames + PAD > GRID_LIMIT:
        raise ValueError(f"wanted at most {GRID_LIMIT - PAD} frames; got {frames}")
    shape = 1, channels, frames + PAD, height, width
    result = torch.empty(shape, dtype=f.dtype, device=f.device, memory_format=torch.channels_last_3d)
    dense, y, b = (x.contiguous(memory_format=torch.channels_last_3d) for x in (f, y, b))
    past = result if cache is None else cache.contiguous(memory_format=torch.channels_last_3d)
    part, tile = _tile(channels, MOMENTS_TILE), _tile(channels, TILE)
    rows = frames * height * width
    steps = ceil_div(rows, part["BLOCK"] * PROGRAMS)
    chunk = steps * part["BLOCK"]
    programs = ceil_div(rows, chunk)
    partial = torch.empty((programs, 2, channels), dtype=torch.float32, device=f.device)
    statistics = torch.empty((2, channels), dtype=torch.float32, device=f.device)
    moments = named(moments_kernel, dense, partial, rows, steps)
    merge = named(merge_kernel, partial, weight.contiguous(), statistics, rows, chunk, programs, eps)
    lead, cached = _lead(frames), int(cache is not None)
    latent = tuple(y.shape[2:])
    scales = (latent[0] - lead) / (frames - lead), latent[1] / height, latent[2] / width
    tensors = dense, statistics, bias.contiguous(), y, b, past, result
    sizes = frames, height * width, width, *latent, *scales, lead, cached
    grid = ceil_div(height * width, tile["BLOCK"]), frames + PAD * cached
    launches = (
        Launch(moments_kernel, (programs,), moments, part, WARPS),
        Launch(merge_kernel, (groups,), merge, _merge_tile(channels, groups), WARPS),
        Launch(spatial_norm_kernel, grid, named(spatial_norm_kernel, *tensors, *sizes), tile, WARPS),
    )
    return launches, result


compiled_spatial_norm = compiled(launch_spatial_norm)
spatial_norm = operator(plain_spatial_norm, compiled_spatial_norm)


def _tile(channels: int, elements: int) -> dict[str, int]:
    """Return the constants of a tile: all channels of as many pixels as fit."""
    padded = power_of_two(channels)
    return {"C": channels, "CHANNELS": padded, "BLOCK": max(elements // padded, 1)}


def _merge_tile(channels: int, groups: int) -> dict[str, int]:
    """Return the constants of a tile of partial statistics: one group's channels of many parts."""
    width = channels // groups
    lanes = power_of_two(width)
    block = min(max(MERGE_TILE // lanes, 1), power_of_two(PROGRAMS))
    return {"C": channels, "WIDTH": width, "LANES": lanes, "BLOCK": block}


def _variants(io: str, channels: int, groups: int) -> Iterator[Variant]:
    name = f"{io}_{channels}"
    moments = {"f_ptr": f"*{io}", "partial_ptr": "*fp32", "rows": "i32", "steps": "i32"}
    yield Variant(f"spatial_norm_moments_{name}", moments_kernel, moments, _tile(channels, MOMENTS_TILE), WARPS)
    merge = {"partial_ptr": "*fp32", "weight_ptr": f"*{io}", "statistics_ptr": "*fp32"}
    merge |= {"rows": "i32", "chunk": "i32", "programs": "i32", "epsilon": "fp32"}
    yield Variant(f"spatial_norm_merge_{name}", merge_kernel, merge, _merge_tile(channels, groups), WARPS)
    apply = {"f_ptr": f"*{io}", "statistics_ptr": "*fp32"}
    apply |= dict.fromkeys(("bias_ptr", "y_ptr", "b_ptr", "cache_ptr", "result_ptr"), f"*{io}")
    apply |= dict.fromkeys(("frames", "pixels", "width", "latent_frames", "latent_height", "latent_width"), "i32")
    apply |= dict.fromkeys(("frame_scale", "row_scale", "column_scale"), "fp32")
    apply |= {"lead": "i32", "cached": "i32"}
    yield Variant(f"spatial_norm_{name}", spatial_norm_kernel, apply, _tile(channels, TILE), WARPS)


def variants(architecture: int) -> tuple[Variant, ...]:
    """Return the forms to compile: CogVideoX's channels in 32 groups, parameters in the video's dtype."""
    return tuple(v for io in ("bf16", "fp16") for channels in (128, 256, 512) for v in _variants(io, channels, 32))
