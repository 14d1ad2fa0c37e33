"""The linear causal codec: patches of the first frame, and of what four frames change in it, projected onto fitted bases."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUP = 4
"""Frames per latent frame after the first, as CogVideoX's VAE."""

MOVES = 2e-4
"""Mean squared change, of a range of 2, from which a patch counts as one where something moves."""

LOUDEST = 2.0
"""No channel's deviation is left larger than this."""


class LinearCodec(nn.Module):
    """Frames B 3 T H W in [-1, 1] to latents B C t h w, t = 1 + (T - 1) / 4, and back, by orthonormal bases.

    ``*_basis`` is C x pixels, ``*_mean`` pixels, ``*_scale`` C.

    The first latent frame is the first frame; every other one is four frames' difference from it, so that where nothing
    moves there is nothing to imagine, and the background is as sharp as the first frame.
    """

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
        first, rest = frames[:, :, :1], frames[:, :, 1:]
        latents = [self._project(first, "first", 1)]
        if rest.shape[2] > 0:
            latents.append(self._project(rest - first, "group", GROUP))
        return torch.cat(latents, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Return B 3 T H W frames of B C t h w latents whose first is the clip's first frame."""
        first = self.decode_first(latents[:, :, :1])
        return torch.cat([first, self.decode_groups(latents[:, :, 1:], first)], 2)

    def decode_first(self, latents: Tensor) -> Tensor:
        """Return the first frame, B 3 1 H W."""
        return self._restore(latents, "first", 1)

    def decode_groups(self, latents: Tensor, first: Tensor) -> Tensor:
        """Return four frames for each of the latents, none of which is the first; ``first`` is the first frame."""
        return self._restore(latents, "group", GROUP) + first

    @torch.no_grad()
    def lift(self, low: "LinearCodec", factor: int) -> Tensor:
        """Return the matrix from a group's latents in ``low`` to this codec's of the same patch, ``factor`` times as large.

        Its rows, C factor^2, are as `pixel_shuffle` wants them; each patch is enlarged bilinearly, on its own.
        """
        one_each = torch.eye(low.channels)[..., None, None, None].to(low.get_buffer("group_basis"))
        patches = low._restore(one_each, "group", GROUP)
        size = factor * self.patch, factor * self.patch
        larger = functional.interpolate(patches.flatten(1, 2), size, mode="bilinear", align_corners=False)
        projected = self._project(larger.unflatten(1, (3, GROUP)), "group", GROUP)
        return projected.flatten(1).T

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


class StreamingLinear(nn.Module):
    """`LinearCodec`'s decoder chunk by chunk: latents and the last chunk's cache, None at first, to frames and cache."""

    chunks = (3, 2)  # as CogVideoX's VAE has them

    def __init__(self, codec: LinearCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latents: Tensor, cache: Mapping[str, Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return B 3 T H W frames and the cache, which is the clip's first frame."""
        if cache is not None:
            # Cloned: an exported graph's output is no alias of its input.
            return self.codec.decode_groups(latents, cache["first"]), {"first": cache["first"].clone()}
        first = self.codec.decode_first(latents[:, :, :1])
        return torch.cat([first, self.codec.decode_groups(latents[:, :, 1:], first)], 2), {"first": first}

    def cache_names(self, channels: int, grid: tuple[int, int]) -> tuple[str, ...]:
        """Return the cache's names, whatever the latents' size."""
        return ("first",)


def to_patches(frames: Tensor, length: int, patch: int) -> Tensor:
    """Return B t h w P patches of B 3 T H W frames, each of ``length`` frames and ``patch`` x ``patch`` pixels."""
    batch, colours, time, height, width = frames.shape
    split = frames.reshape(batch, colours, time // length, length, height // patch, patch, width // patch, patch)
    patches = split.permute(0, 2, 4, 6, 1, 3, 5, 7)
    return patches.reshape(batch, time // length, height // patch, width // patch, -1)


def fit(clips: Iterable[Tensor], patch: int, channels: int, whiten: float = 1.0) -> LinearCodec:
    """Return the `LinearCodec` with the least squared error on ``clips`` (each B 3 T H W in [-1, 1], read once).

    Channels are ordered by variance; the sign of each basis is fixed by its largest entry. Differences have no mean: where
    nothing moves the latents are 0. Scales are taken where something moves. With ``whiten`` 1 every channel has unit
    variance there; below, a channel's deviation over the median one is left to the power 1 - ``whiten``, at most `LOUDEST`:
    whole whitening makes the smallest channels as loud as the largest.
    """
    codec = LinearCodec(patch, channels)
    moments = {name: _Moments(codec.get_buffer(f"{name}_mean").shape[0]) for name in ("first", "group")}
    for clip in clips:
        first, rest = clip[:, :, :1], clip[:, :, 1:]
        moments["first"].add(to_patches(first, 1, patch).flatten(0, 3))
        changes = to_patches(rest - first, GROUP, patch).flatten(0, 3)
        moments["group"].add(changes[changes.square().mean(1) > MOVES])
    for name, statistics in moments.items():
        mean = statistics.mean if name == "first" else torch.zeros_like(statistics.mean)
        variance, vectors = torch.linalg.eigh(statistics.second - torch.outer(mean, mean))
        variance, basis = variance.flip(0)[:channels].clamp_min(1e-8), vectors.flip(1)[:, :channels].T
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        deviation = variance.sqrt()
        left = (deviation / deviation.median()).pow(1.0 - whiten).clamp_max(LOUDEST)
        codec.get_buffer(f"{name}_mean").copy_(mean)
        codec.get_buffer(f"{name}_basis").copy_(basis * largest.sign())
        codec.get_buffer(f"{name}_scale").copy_(deviation / left)
    return codec.eval()


class _Moments:
    """Mean and second moment of rows, added up in double precision."""

    def __init__(self, width: int) -> None:
        self._count, self._sum, self._products = 0, torch.zeros(width).double(), torch.zeros(width, width).double()

    def add(self, rows: Tensor) -> None:
        """Take in rows, N x width."""
        self._count += len(rows)
        self._sum += rows.double().sum(0)
        self._products += (rows.T @ rows).double()

    @property
    def mean(self) -> Tensor:
        """The rows' mean."""
        return self._sum / max(self._count, 1)

    @property
    def second(self) -> Tensor:
        """The mean of the rows' outer products."""
        return self._products / max(self._count, 1)
