"""CogVideoX's 3D causal VAE, and its decoder with the convolution cache as plain tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import (
    CogVideoXCausalConv3d,
    CogVideoXSafeConv3d,
    CogVideoXSpatialNorm3D,
)
from torch import Tensor, nn

from .sizes import VaeSize

KERNEL_FRAMES = 3
"""Frames that each causal convolution sees."""
CHUNKS = (3, 2)
"""Latent frames of the first and of every following chunk; GroupNorm's statistics are per chunk, so this is fixed."""


def build_vae(size: VaeSize) -> AutoencoderKLCogVideoX:
    """Return the VAE: B 3 T H W frames in [-1, 1] to latents B C t H/8 W/8 and back."""
    return AutoencoderKLCogVideoX(
        block_out_channels=size.blocks,
        layers_per_block=size.layers,
        latent_channels=size.channels,
        norm_num_groups=size.groups,
    )


def flatten_cache(cache: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of diffusers' nested cache, in its own order, under names joined by a double underscore."""
    for key, value in cache.items():
        name = f"{prefix}{key}"
        if isinstance(value, Tensor):
            yield name, value
        elif value is not None:
            yield from flatten_cache(value, f"{name}__")


def nest_cache(names: tuple[str, ...], tensors: tuple[Tensor, ...]) -> dict[str, Any]:
    """Return the nested cache that `flatten_cache` took apart."""
    cache: dict[str, Any] = {}
    for name, tensor in zip(names, tensors, strict=True):
        *path, leaf = name.split("__")
        place = cache
        for key in path:
            place = place.setdefault(key, {})
        place[leaf] = tensor
    return cache


def conditioned(norm: Any, f: Tensor, zq: Tensor, conv_cache: Any = None) -> tuple[Tensor, dict[str, Any]]:
    """Return diffusers' spatial norm of ``f``, B C T H W, under the latents ``zq``, B c t h w, and no cache.

    The norm's and the latents' scale and shift are made one of each, of the latents as they are, and spread over each of
    their blocks of pixels as they are used: diffusers makes four tensors as large as ``f``, gigabytes each at full size.
    """
    gain, offset = statistics(norm.norm_layer, f)
    height, width = zq.shape[-2:]
    scale, shift = (_in_time(conv.conv(zq), f.shape[2]) for conv in (norm.conv_y, norm.conv_b))
    scale, shift = gain * scale, offset * scale + shift
    blocks = f.unflatten(-1, (width, -1)).unflatten(-3, (height, -1))
    out = blocks * scale[..., :, None, :, None] + shift[..., :, None, :, None]
    return out.flatten(-2).flatten(-3, -2), {}


def statistics(norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what to multiply ``x``, B C T H W, with and then to add for ``norm`` of it, both B C 1 1 1.

    The means are taken row by row, then of rows, then of pictures: ONNX Runtime sums a group at once in float32, and of the
    25 million numbers of a full-size one it loses three digits (an error of 7e-3 in numbers up to 5, 5e-7 this way).
    """
    groups = x.unflatten(1, (norm.num_groups, -1))
    mean = _mean(groups)
    inverse = torch.rsqrt(_mean((groups - mean).square()) + norm.eps)
    gain = norm.weight.view(norm.num_groups, -1, 1, 1, 1) * inverse
    offset = norm.bias.view(norm.num_groups, -1, 1, 1, 1) - mean * gain
    return gain.flatten(1, 2), offset.flatten(1, 2)


def _mean(groups: Tensor) -> Tensor:
    return groups.mean(-1, keepdim=True).mean(-2, keepdim=True).mean((-4, -3), keepdim=True)


def causal(conv: Any, inputs: Tensor, conv_cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return diffusers' causal convolution of ``inputs``, B C T H W, and its last two frames as the next cache."""
    before = inputs[:, :, :1].repeat_interleave(KERNEL_FRAMES - 1, 2) if conv_cache is None else conv_cache
    out, left = _in_turn(conv.conv, before, inputs)
    return out, left.clone()


def pointwise(conv: nn.Conv3d, inputs: Tensor) -> Tensor:
    """Return diffusers' convolution of one frame at a time."""
    return _in_turn(conv, inputs[:, :, :0], inputs)[0]


def _in_turn(conv: nn.Conv3d, before: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return a convolution of frames of which it has seen those ``before``, and those that the next one has seen.

    Run by torch it takes a frame at a time: oneDNN copies all that it is given and gives.
    """
    run = nn.Conv3d.forward  # diffusers' own branches on the tensor's size, which no exporter can follow
    if torch.compiler.is_exporting():
        window = torch.cat([before, inputs], 2) if before.shape[2] else inputs
        return run(conv, window), window[:, :, inputs.shape[2] :]
    out = None
    for index in range(inputs.shape[2]):
        window = torch.cat([before, inputs[:, :, index : index + 1]], 2)
        frame, before = run(conv, window), window[:, :, 1:]
        if out is None:
            out = frame.new_empty(*frame.shape[:2], inputs.shape[2], *frame.shape[3:])
        out[:, :, index : index + 1] = frame
    assert out is not None
    return out, before


def _in_time(latents: Tensor, frames: int) -> Tensor:
    """Return B C t h w as B C ``frames`` h w, the nearest each; the first of an odd number stands for itself."""
    count, alone = latents.shape[2], int(frames > 1 and frames % 2 == 1)
    if count == frames:
        return latents
    rest = torch.arange(frames - alone, device=latents.device) * (count - alone) // (frames - alone)
    return latents.index_select(2, torch.cat([rest.new_zeros(alone), alone + rest]))


class StreamingDecoder(nn.Module):
    """One chunk of latents and the last chunk's cache to frames and the next cache: equal to decoding all at once."""

    chunks = CHUNKS

    def __init__(self, vae: AutoencoderKLCogVideoX) -> None:
        super().__init__()
        self.decoder = vae.decoder
        for module in self.decoder.modules():
            if isinstance(module, CogVideoXCausalConv3d) and module.time_kernel_size == KERNEL_FRAMES:
                module.forward = causal.__get__(module)
            elif isinstance(module, CogVideoXSafeConv3d) and module.kernel_size[0] == 1:
                module.forward = pointwise.__get__(module)
            elif isinstance(module, CogVideoXSpatialNorm3D):
                module.forward = conditioned.__get__(module)

    def forward(self, latents: Tensor, cache: dict[str, Any] | None) -> tuple[Tensor, dict[str, Any]]:
        """Return frames B 3 T H W in [-1, 1] of latents B C t h w, and the cache for the next chunk.

        The blocks' layers are gone through here: diffusers' own forward keeps each block's input until its end, 3 GB.
        """
        decoder, past, left = self.decoder, cache or {}, dict[str, Any]()
        hidden, left["conv_in"] = decoder.conv_in(latents, past.get("conv_in"))
        blocks = {"mid_block": decoder.mid_block} | {
            f"up_block_{k}": block for k, block in enumerate(decoder.up_blocks)
        }
        for name, block in blocks.items():
            before, left[name] = past.get(name, {}), {}
            for index, resnet in enumerate(block.resnets):
                key = f"resnet_{index}"
                hidden, left[name][key] = resnet(hidden, None, latents, before.get(key))
            for upsampler in getattr(block, "upsamplers", None) or ():
                hidden = upsampler(hidden)
        hidden = decoder.conv_act(decoder.norm_out(hidden, latents)[0])
        frames, left["conv_out"] = decoder.conv_out(hidden, past.get("conv_out"))
        return frames, left

    @torch.no_grad()
    def cache_names(self, channels: int, grid: tuple[int, int]) -> tuple[str, ...]:
        """Return the names of the cached tensors: the last two frames before each convolution."""
        weight = next(self.decoder.parameters())
        _, cache = self.forward(weight.new_zeros(1, channels, CHUNKS[0], *grid), None)
        return tuple(name for name, _ in flatten_cache(cache))
