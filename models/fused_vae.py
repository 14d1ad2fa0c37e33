"""CogVideoX's VAE decoder as `StreamingDecoder` has it, around one fused norm, with channels last from end to end.

What diffusers does in passes over the whole video is done once here: the latents are convolved 1x1x1 at their own size
(`dvgwm.kernels.spatial_norm`), padding is written by the norm before it, and frames that an upsampler repeats are
convolved before they are repeated.
"""

from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor, nn
from torch.nn import functional

from dvgwm.kernels.spatial_norm import spatial_norm

from .vae import CHUNKS, KERNEL_FRAMES, flatten_cache, nest_cache

PAST = KERNEL_FRAMES - 1
"""Frames that each causal convolution looks back on."""
LAYOUT = torch.channels_last_3d


class FusedDecoder(nn.Module):
    """One chunk of latents and the last chunk's cache to frames and the next cache: `StreamingDecoder`, one video at a time.

    It shares the parameters of ``vae``, whose convolutions' weights it lays out channels last.
    """

    chunks = CHUNKS

    def __init__(self, vae: AutoencoderKLCogVideoX) -> None:
        super().__init__()
        self.decoder = vae.decoder
        for module in self.decoder.modules():
            if isinstance(module, nn.Conv3d):
                module.weight.data = module.weight.data.contiguous(memory_format=LAYOUT)
            elif isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, latents: Tensor, cache: dict[str, Any] | None) -> tuple[Tensor, dict[str, Any]]:
        """Return frames 1 3 T H W in [-1, 1] of latents 1 C t h w, and the cache for the next chunk."""
        decoder, chunk = self.decoder, _Chunk(latents, cache)
        hidden = chunk.first(decoder.conv_in, "conv_in")
        for name, block in self._blocks():
            for index, resnet in enumerate(block.resnets):
                hidden = chunk.resnet(resnet, hidden, f"{name}__resnet_{index}")
            for upsampler in getattr(block, "upsamplers", None) or ():
                hidden = upsampled(hidden, upsampler)
        frames = chunk.step(decoder.norm_out, decoder.conv_out, hidden, "conv_out")
        return frames, nest_cache(tuple(chunk.following), tuple(chunk.following.values()))

    def cache_names(self, channels: int, grid: tuple[int, int]) -> tuple[str, ...]:
        """Return the names of the cached tensors, in the order of `forward`; they are the same for every size."""
        resnets = [f"{name}__resnet_{index}" for name, block in self._blocks() for index in range(len(block.resnets))]
        return "conv_in", *(f"{name}__{conv}" for name in resnets for conv in ("conv1", "conv2")), "conv_out"

    def _blocks(self) -> list[tuple[str, Any]]:
        ups = [(f"up_block_{index}", block) for index, block in enumerate(self.decoder.up_blocks)]
        return [("mid_block", self.decoder.mid_block), *ups]


class _Chunk:
    """What one chunk's layers share: its latents, the last chunk's cache and the next one, by name."""

    def __init__(self, latents: Tensor, cache: dict[str, Any] | None) -> None:
        self.latents = latents.contiguous(memory_format=LAYOUT)
        self.past = dict(flatten_cache(cache or {}))
        self.following: dict[str, Tensor] = {}

    def first(self, causal: Any, name: str) -> Tensor:
        """Return the latents through the decoder's first convolution."""
        past = self.past.get(name)
        before = [self.latents[:, :, :1]] * PAST if past is None else [past]
        return self._convolved(torch.cat([*before, self.latents], 2), causal, name)

    def step(self, norm: Any, causal: Any, hidden: Tensor, name: str) -> Tensor:
        """Return ``hidden`` normalised under the latents, through SiLU and the convolution called ``name``."""
        layer = norm.norm_layer
        y, b = (functional.conv3d(self.latents, c.conv.weight, c.conv.bias) for c in (norm.conv_y, norm.conv_b))
        past = self.past.get(name)
        padded = spatial_norm(hidden, layer.weight, layer.bias, y, b, past, layer.num_groups, layer.eps)
        return self._convolved(padded, causal, name)

    def resnet(self, block: Any, hidden: Tensor, name: str) -> Tensor:
        """Return ``hidden`` through one residual block."""
        inside = self.step(block.norm1, block.conv1, hidden, f"{name}__conv1")
        inside = self.step(block.norm2, block.conv2, inside, f"{name}__conv2")
        if block.in_channels != block.out_channels:
            hidden = functional.conv3d(hidden, block.conv_shortcut.weight, block.conv_shortcut.bias)
        return inside + hidden

    def _convolved(self, padded: Tensor, causal: Any, name: str) -> Tensor:
        # A copy: a view would keep every layer's whole activation alive until the next chunk.
        self.following[name] = padded[:, :, -PAST:].clone(memory_format=LAYOUT)
        return functional.conv3d(padded, causal.conv.weight, causal.conv.bias, padding=causal.conv.padding)


def upsampled(hidden: Tensor, upsampler: Any) -> Tensor:
    """Return 1 C T H W as 1 C T' 2H 2W; T' is 2 T where the upsampler doubles time, less the first of an odd number.

    The upsampler's convolution sees one frame at a time: a frame that is shown twice is convolved once.
    """
    large = functional.interpolate(hidden[0].transpose(0, 1), scale_factor=2.0)
    conv = upsampler.conv
    frames = functional.conv2d(large, conv.weight, conv.bias, conv.stride, conv.padding)
    rows = frames.permute(0, 2, 3, 1)
    count = rows.shape[0]
    if upsampler.compress_time and count > 1:
        # One copy of whole frames, joined as T H W C: what that makes has the layout whatever cat makes of others.
        rows = torch.cat([rows[i : i + 1] for i in range(count) for _ in range(1 if i == 0 and count % 2 else 2)])
    # The batch is put in front of T and not of C: its stride is then what the convolutions know channels last by.
    return rows[None].permute(0, 4, 1, 2, 3)
