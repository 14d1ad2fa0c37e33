"""Wan2.1's 3D causal VAE: the latents of a video that a picture begins, and its decoder latent frame by latent frame."""

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.nn import functional

from .sizes import Scaling, WanVaeSize


def build_vae(size: WanVaeSize, scaling: Scaling) -> AutoencoderKLWan:
    """Return the VAE: B 3 T H W frames in [-1, 1] to latents B C t H/8 W/8 and back."""
    return AutoencoderKLWan(
        base_dim=size.base,
        z_dim=size.channels,
        dim_mult=list(size.blocks),
        num_res_blocks=size.layers,
        latents_mean=list(scaling.mean),
        latents_std=list(scaling.std),
    )


class EncodeCondition(nn.Module):
    """An image, uint8 1 H W 3, to the latents of a video that it begins and grey goes on: 1 1 (T C) h w, unscaled."""

    def __init__(self, vae: Any, latent_frames: int) -> None:
        super().__init__()
        self.encoder, self.quant_conv, self.latent_frames = vae.encoder, vae.quant_conv, latent_frames
        self.dtype = next(vae.parameters()).dtype
        self.cached = vae._cached_conv_counts["encoder"]

    def forward(self, image: Tensor) -> Tensor:
        """Return the posterior's mode of every latent frame."""
        frame = (image.float().permute(0, 3, 1, 2)[:, :, None] / 127.5 - 1.0).to(self.dtype)
        grey = torch.zeros_like(frame).expand(-1, -1, 4, -1, -1)
        cache: list[Any] = [None] * self.cached
        groups = [
            self.encoder(frame if index == 0 else grey, feat_cache=cache, feat_idx=[0])
            for index in range(self.latent_frames)
        ]
        latents = self.quant_conv(torch.cat(groups, 2)).chunk(2, 1)[0]
        return latents.float().transpose(1, 2).flatten(1, 2)[:, None]


class StreamingWan(nn.Module):
    """One latent frame and the last one's cache to frames and the next cache: equal to decoding all at once.

    A cache is the last two frames before each causal convolution, zeros where there were none. diffusers leaves the first
    out, and marks where time is stretched next; both are what zeros give.
    """

    chunks = (1, 1)

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv
        self.cached = vae._cached_conv_counts["decoder"]

    def forward(self, latents: Tensor, cache: dict[str, Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return frames B 3 T H W in [-1, 1] of latents B C 1 h w, and the cache for the next frame."""
        known: list[Any] = [None] * self.cached if cache is None else [*cache.values()]
        known += [None] * (self.cached - len(known))
        frames = self.decoder(self.post_quant_conv(latents), feat_cache=known, feat_idx=[0], first_chunk=cache is None)
        stretched = iter(self._stretched(latents))
        left = [next(stretched) if isinstance(entry, str) else entry for entry in known if entry is not None]
        padded = (functional.pad(entry, (0, 0, 0, 0, 2 - entry.shape[2], 0)) for entry in left)
        return frames, {f"conv{index:02d}": entry for index, entry in enumerate(padded)}

    def cache_names(self, channels: int, grid: tuple[int, int]) -> tuple[str, ...]:
        """Return the names of the cached tensors."""
        weight = next(self.decoder.parameters())
        return tuple(self.forward(weight.new_zeros(1, channels, 1, *grid), None)[1])

    def _stretched(self, latents: Tensor) -> list[Tensor]:
        """Return empty caches of the convolutions that stretch time, which a first frame does not go through."""
        height, width = latents.shape[-2:]
        ups = [(level, block.upsamplers[0]) for level, block in enumerate(self.decoder.up_blocks) if block.upsamplers]
        return [
            latents.new_zeros(latents.shape[0], up.dim, 2, height << level, width << level)
            for level, up in ups
            if up.mode == "upsample3d"
        ]
