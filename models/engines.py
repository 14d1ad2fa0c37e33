"""The networks as engines see them: each forward's parameters and outputs are one exported graph's interface.

Latents are B T C H W float32, frames uint8, tokens int64. The denoisers are in `denoisers`.
"""

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from .codec import LinearCodec, StreamingLinear
from .fused_vae import FusedDecoder
from .policy import ActionUNet, FrameEncoder
from .sizes import Scaling
from .text import embed
from .vae import StreamingDecoder, flatten_cache, nest_cache
from .wan_vae import StreamingWan


class EncodeImageEngine(nn.Module):
    """An image, uint8 1 H W 3, to its latents 1 1 C h w, unscaled; of a VAE the posterior's mode.

    ``dtype`` is the codec's; the latents are float32.
    """

    def __init__(self, codec: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.codec, self.dtype = codec, dtype

    def forward(self, image: Tensor) -> Tensor:
        """Return the latents."""
        # TensorRT takes bytes as an input, and does nothing with them but cast them.
        frame = (image.float().permute(0, 3, 1, 2)[:, :, None] / 127.5 - 1.0).to(self.dtype)
        if isinstance(self.codec, LinearCodec):
            latents = self.codec.encode(frame)
        else:
            moments, _ = self.codec.encoder(frame)
            latents = moments.chunk(2, 1)[0]
        return latents.transpose(1, 2).float()


class DecodeEngine(nn.Module):
    """A chunk of scaled latents 1 t C h w and the last chunk's cache to frames 1 T H W 3 and the next cache.

    ``dtype`` is the codec's and the cache's; latents, and frames that are not quantised, are float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        codec: nn.Module,
        scaling: Scaling,
        cache_names: tuple[str, ...],
        first: bool,
        quantise: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.codec, self.cache_names, self.first, self.quantise = codec, cache_names, first, quantise
        self.dtype = dtype
        # Beside the codec, which may be on a GPU: the graph of the next chunk is made by a run of the first.
        place = next((tensor.device for tensor in codec.state_dict(keep_vars=True).values()), None)
        self.register_buffer("mean", torch.tensor(scaling.mean, device=place).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(scaling.std, device=place).view(-1, 1, 1), persistent=False)

    def forward(self, latents: Tensor, *cache: Tensor) -> Any:
        """Return the frames, uint8 (with ``quantise``) or float32 in [0, 1], then the cache's tensors.

        With ``quantise`` the last is the mean of the frames, 1, before they are rounded: a byte is always finite.
        """
        raw = (latents * self.std + self.mean).transpose(1, 2).to(self.dtype)
        nested = None if self.first else nest_cache(self.cache_names, cache)
        frames, left = self.codec(raw, nested)
        tensors = dict(flatten_cache(left))
        pixels = (frames.float() * 0.5 + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 4, 1)
        cached = (tensors[name] for name in self.cache_names)
        if not self.quantise:
            return pixels, *cached
        return (pixels * 255.0).round().to(torch.uint8), *cached, frames.float().mean().reshape(1)


class EncodeTextEngine(nn.Module):
    """Tokens int64 1 L to float32 embeddings 1 L D."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the last hidden state."""
        return embed(self.encoder, tokens).float()


class EncodeFramesEngine(nn.Module):
    """Frames uint8 N H W 3 to features N F."""

    def __init__(self, encoder: FrameEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Tensor) -> Tensor:
        """Return one row of features per frame."""
        return self.encoder(frames)


class PolicyEngine(nn.Module):
    """Noisy actions N horizon D, time 1 and features N F (of all frames of a chunk in a row) to the noise in them."""

    def __init__(self, unet: ActionUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, state: Tensor, time: Tensor, features: Tensor) -> Tensor:
        """Return epsilon, N horizon D."""
        return self.unet(state, time.expand(state.shape[0]), features)


def streaming(codec: nn.Module, fused: bool = False) -> nn.Module:
    """Return what `DecodeEngine` decodes with: the linear codec's streaming decoder, or a VAE's, plain or fused."""
    if isinstance(codec, LinearCodec):
        return StreamingLinear(codec)
    if isinstance(codec, AutoencoderKLWan):
        return StreamingWan(codec)
    return FusedDecoder(codec) if fused else StreamingDecoder(codec)
