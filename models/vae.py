"""CogVideoX's 3D causal VAE, and its decoder with the convolution cache as plain tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSafeConv3d, CogVideoXSpatialNorm3D
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

    Scale and shift are made of the latents as they are, and spread over each of their blocks of pixels as they are used:
    diffusers makes them as large as ``f``, two tensors more at the decoder's full size.
    """
    out, (height, width) = grouped(norm.norm_layer, f), zq.shape[-2:]
    block = f.shape[-1] // width
    out = out.unflatten(-1, (width, block)).unflatten(-3, (height, block))
    scale, shift = (
        _in_time(causal.conv(zq), f.shape[2])[..., :, None, :, None] for causal in (norm.conv_y, norm.conv_b)
    )
    return (out * scale + shift).flatten(-2).flatten(-3, -2), {}


def grouped(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Return ``norm`` of ``x``, B C T H W, its means taken row by row, then of rows, then of pictures.

    ONNX Runtime sums a group at once in float32: of the 25 million numbers of a full-size one it loses three digits (an error
    of 7e-3 in numbers up to 5, 6e-6 this way).
    """
    groups = x.unflatten(1, (norm.num_groups, -1))
    centred = groups - _mean(groups)
    normed = (centred * torch.rsqrt(_mean(centred * centred) + norm.eps)).flatten(1, 2)
    weight, bias = (values.view(-1, 1, 1, 1) for values in (norm.weight, norm.bias))
    return normed * weight + bias


def _mean(groups: Tensor) -> Tensor:
    return groups.mean(-1, keepdim=True).mean(-2, keepdim=True).mean((-4, -3), keepdim=True)


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
            if isinstance(module, CogVideoXSafeConv3d):
                # Its own forward branches on the tensor's size, which no exporter can follow.
                module.forward = nn.Conv3d.forward.__get__(module)
            elif isinstance(module, CogVideoXSpatialNorm3D):
                module.forward = conditioned.__get__(module)

    def forward(self, latents: Tensor, cache: dict[str, Any] | None) -> tuple[Tensor, dict[str, Any]]:
        """Return frames B 3 T H W in [-1, 1] of latents B C t h w, and the cache for the next chunk."""
        frames, following = self.decoder(latents, conv_cache=cache)
        return frames, following

    @torch.no_grad()
    def cache_names(self, channels: int, grid: tuple[int, int]) -> tuple[str, ...]:
        """Return the names of the cached tensors that a later chunk reads: the last two frames before each convolution.

        diffusers also caches the whole input of convolutions that look at one frame only, and never reads it.
        """
        weight = next(self.decoder.parameters())
        _, cache = self.forward(weight.new_zeros(1, channels, CHUNKS[0], *grid), None)
        return tuple(name for name, tensor in flatten_cache(cache) if tensor.shape[2] == KERNEL_FRAMES - 1)
