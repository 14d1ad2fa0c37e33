"""Where things are in a first frame, as tokens: a small network reads places better from numbers than from wide patches."""

import torch
from torch import Tensor, nn

OCTAVES = 5
SHARPNESS = 10.0
"""The maps' factor before their softmax: points find their things sooner than from flat maps."""


class Keypoints(nn.Module):
    """A frame B 3 H W in [-1, 1] to tokens B K D beside the text's: K soft-argmax points and what is seen at them.

    A point's place is exact to a fraction of a pixel; a transformer's own token is a patch of 16 x 16 pixels, and its
    rotary positions say where tokens are to each other only.
    """

    def __init__(self, count: int, width: int, channels: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, channels // 2, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
            nn.ReLU(),
        )
        self.maps = nn.Conv2d(channels, count, 1)
        self.tokens = nn.Linear(channels + 2 + 4 * OCTAVES, width)
        self.kinds = nn.Parameter(0.5 * torch.randn(count, width))

    def forward(self, image: Tensor) -> Tensor:
        """Return the tokens."""
        features = self.features(image)
        # In float32 throughout: places are finer than bfloat16 tells.
        weights = (SHARPNESS * self.maps(features).float()).flatten(2).softmax(-1)
        seen = weights.to(features.dtype) @ features.flatten(2).transpose(1, 2)
        here = weights.unflatten(-1, image.shape[2:])
        rows, columns = (torch.linspace(-1, 1, size, device=image.device) for size in image.shape[2:])
        places = torch.stack([(here.sum(2) * columns).sum(-1), (here.sum(3) * rows).sum(-1)], -1)
        waves = [
            wave(places * (torch.pi * 2.0**octave)) for octave in range(OCTAVES) for wave in (torch.sin, torch.cos)
        ]
        return self.tokens(torch.cat([seen.float(), places, *waves], -1)) + self.kinds
