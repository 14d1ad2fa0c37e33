"""The linear causal codec: patches of four frames, or of the first alone, projected onto fitted bases."""

from typing import Protocol

import torch
from torch import Tensor, nn

GROUP = 4
"""Frames per latent frame after the first, as CogVideoX's VAE."""


class Codec(Protocol):
    """Frames to latents and back: B 3 T H W in [-1, 1] and B C t h w, t = 1 + (T - 1) / 4."""

    def encode(self, frames: Tensor) -> Tensor:
        """Return the latents of ``frames``."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return the frames of ``latents``."""


class LinearCodec(nn.Module):
    """`Codec` by orthonormal bases: ``*_basis`` is C x pixels, ``*_mean`` pixels, ``*_scale`` C (unit variance)."""

    def __init__(self, patch: int, channels: int) -> None:
        super().__init__()
        self.patch, self.channels = patch, channels
        for name, frames in (("first", 1), ("group", GROUP)):
            pixels = 3 * frames * patch * patch
            self.register_buffer(f"{name}_basis", torch.zeros(channels, pixels))
            self.register_buffer(f"{name}_mean", torch.zeros(pixels))
            self.register_buffer(f"{name}_scale", torch.ones(channels))

    def encode(self, frames: Tensor) -> Tensor:
        """Return float32 latents B C t h w of B 3 T H W frames, T = 1 + 4 n."""
        parts = [self._project(frames[:, :, :1], "first", 1)]
        if frames.shape[2] > 1:
            parts.append(self._project(frames[:, :, 1:], "group", GROUP))
        return torch.cat(parts, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Return B 3 T H W frames of B C t h w latents whose first is the clip's first frame."""
        return torch.cat([self.decode_first(latents[:, :, :1]), self.decode_groups(latents[:, :, 1:])], 2)

    def decode_first(self, latents: Tensor) -> Tensor:
        """Return the first frame, B 3 1 H W."""
        return self._restore(latents, "first", 1)

    def decode_groups(self, latents: Tensor) -> Tensor:
        """Return four frames for each of the latents, none of which is the first."""
        return self._restore(latents, "group", GROUP)

    def _buffers_of(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(self.get_buffer(f"{name}_{part}") for part in ("basis", "mean", "scale"))  # type: ignore[return-value]

    def _project(self, frames: Tensor, name: str, length: int) -> Tensor:
        basis, mean, scale = self._buffers_of(name)
        patches = to_patches(frames, length, self.patch)
        return (((patches - mean) @ basis.T) / scale).permute(0, 4, 1, 2, 3)

    def _restore(self, latents: Tensor, name: str, length: int) -> Tensor:
        basis, mean, scale = self._buffers_of(name)
        patches = (latents.permute(0, 2, 3, 4, 1) * scale) @ basis + mean
        batch, steps, height, width, _ = patches.shape
        split = patches.reshape(batch, steps, height, width, 3, length, self.patch, self.patch)
        frames = split.permute(0, 4, 1, 5, 2, 6, 3, 7)
        return frames.reshape(batch, 3, steps * length, height * self.patch, width * self.patch)


def to_patches(frames: Tensor, length: int, patch: int) -> Tensor:
    """Return B t h w P patches of B 3 T H W frames, each of ``length`` frames and ``patch`` x ``patch`` pixels."""
    batch, colours, time, height, width = frames.shape
    split = frames.reshape(batch, colours, time // length, length, height // patch, patch, width // patch, patch)
    patches = split.permute(0, 2, 4, 6, 1, 3, 5, 7)
    return patches.reshape(batch, time // length, height // patch, width // patch, -1)


def fit(clips: Tensor, patch: int, channels: int) -> LinearCodec:
    """Return the `LinearCodec` with the least squared error on ``clips`` (B 3 T H W in [-1, 1]).

    Channels are ordered by variance and scaled to unit variance; the sign of each basis is fixed by its largest entry.
    """
    codec = LinearCodec(patch, channels)
    for name, frames, length in (("first", clips[:, :, :1], 1), ("group", clips[:, :, 1:], GROUP)):
        patches = to_patches(frames, length, patch).flatten(0, 3).double()
        mean = patches.mean(0)
        covariance = torch.cov((patches - mean).T)
        variance, vectors = torch.linalg.eigh(covariance)
        variance, basis = variance.flip(0)[:channels].clamp_min(0), vectors.flip(1)[:, :channels].T
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        codec.get_buffer(f"{name}_mean").copy_(mean)
        codec.get_buffer(f"{name}_basis").copy_(basis * largest.sign())
        codec.get_buffer(f"{name}_scale").copy_(variance.sqrt().clamp_min(1e-3))
    return codec.eval()
