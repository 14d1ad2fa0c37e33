"""Tells where the tool is to go: a small network reads it off the first frame, and a small preview draws along it.

A small transformer draws well and aims badly: its tokens are patches of 16 x 16 pixels whose rotary positions say where
they are to each other only. A spatial softmax tells places to a fraction of a pixel.
"""

import torch
from torch import Tensor, nn

from .codec import GROUP, LinearCodec
from .policy import BasicBlock, SpatialSoftmax

OCTAVES = 3
SHARPNESS = 3.0
"""The maps' factor before their softmax: points find their things sooner than from flat maps."""


class Waypoints(nn.Module):
    """A first frame B 3 H W in [-1, 1] and its text B L D to the tool's poses, B N dof in [-1, 1], in the N frames after it.

    The text, its mean over the tokens, scales and shifts the features after every block.
    """

    def __init__(self, channels: int, text: int, frames: int, dof: int) -> None:
        super().__init__()
        c, wide = channels, 16 * channels
        self.frames = frames
        self.stem = nn.Sequential(nn.Conv2d(5, c, 5, 2, 2), nn.GroupNorm(2, c), nn.ReLU())
        self.blocks = nn.ModuleList([BasicBlock(c, c, 1), BasicBlock(c, 2 * c, 2), BasicBlock(2 * c, 2 * c, 1)])
        self.films = nn.ModuleList([nn.Linear(text, 2 * outputs) for outputs in (c, 2 * c, 2 * c)])
        self.maps, self.pool = nn.Conv2d(2 * c, 2 * c, 1), SpatialSoftmax()
        self.head = nn.Sequential(
            nn.Linear(4 * c + text, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, frames * dof)
        )

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Return the poses."""
        rows, columns = (torch.linspace(-1, 1, size, device=image.device) for size in image.shape[2:])
        height, width = image.shape[2:]
        places = torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)])
        summary = text.mean(1)
        features = self.stem(torch.cat([image, places.expand(image.shape[0], -1, -1, -1)], 1))
        for block, film in zip(self.blocks, self.films, strict=True):
            scale, shift = film(summary)[:, :, None, None].chunk(2, 1)
            features = block(features) * (1.0 + scale) + shift
        # In float32 throughout: places are finer than bfloat16 tells.
        points = self.pool(SHARPNESS * self.maps(features).float())
        return self.head(torch.cat([points, summary.float()], 1)).unflatten(1, (self.frames, -1))


def first_frame(codec: LinearCodec, image: Tensor, margin: int) -> Tensor:
    """Return the first frame, float32 B 3 H W, of its latents B 1 C h w, without ``margin`` latents at either side."""
    latents = image.transpose(1, 2).to(codec.get_buffer("first_basis").dtype)
    frame = codec.decode_first(latents)[:, :, 0].float()
    aside = margin * codec.patch
    return frame[..., aside : frame.shape[-1] - aside]


def path_channels(dof: int) -> int:
    """Return how many channels `along` has."""
    return (GROUP * dof + 3) * (1 + 2 * OCTAVES)


def along(poses: Tensor, height: int, width: int) -> Tensor:
    """Return what says to every latent where it is and where the tool is then, B T K ``height`` ``width``.

    These are the ``poses`` B N D of a latent's four frames, and its own time, row and column, with sines and cosines of
    three octaves. The first latent, a frame before every pose, has those of the next.
    """
    groups = poses.unflatten(1, (-1, GROUP)).flatten(2)
    groups = torch.cat([groups[:, :1], groups], 1)
    shape = *groups.shape[:2], -1, height, width
    axes = [torch.linspace(-1, 1, size, device=poses.device) for size in (groups.shape[1], height, width)]
    where = torch.stack(torch.meshgrid(*axes, indexing="ij"), 1).expand(poses.shape[0], -1, -1, -1, -1)
    return torch.cat([_waves(groups)[..., None, None].expand(shape), _waves(where)], 2)


def _waves(values: Tensor) -> Tensor:
    angles = [values * (torch.pi * 2.0**octave) for octave in range(OCTAVES)]
    return torch.cat([values, *(wave(angle) for angle in angles for wave in (torch.sin, torch.cos))], 2)
