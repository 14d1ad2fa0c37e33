"""A vision-only Diffusion Policy: each frame encoded on its own, actions denoised under FiLM (Chi et al. 2023)."""

import math
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .sizes import Policy

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 16), channels)


class BasicBlock(nn.Module):
    """ResNet's two-convolution block with GroupNorm in BatchNorm's place."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            _norm(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            _norm(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.skip = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), _norm(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.skip(x))


class SpatialSoftmax(nn.Module):
    """Where each channel looks: the expected x and y of its softmax, B C H W -> B 2C, in [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        weights = x.flatten(2).softmax(-1).unflatten(-1, x.shape[2:])
        rows = torch.linspace(-1, 1, x.shape[2], device=x.device)
        columns = torch.linspace(-1, 1, x.shape[3], device=x.device)
        return torch.cat([(weights.sum(2) * columns).sum(-1), (weights.sum(3) * rows).sum(-1)], 1)


class FrameEncoder(nn.Module):
    """ResNet18 without its classifier: frames uint8 N H W 3 to features N F (F = ``width``)."""

    mean: Tensor
    std: Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        c = policy.stem
        self.image_size = policy.image_size
        self.stem = nn.Sequential(
            nn.Conv2d(3, c, 7, 2, 3, bias=False), _norm(c), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        stages = [(c, c, 1), (c, 2 * c, 2), (2 * c, 4 * c, 2), (4 * c, 8 * c, 2)]
        if policy.pooling == "spatial_softmax":
            stages[-1] = (4 * c, 8 * c, 1)  # twice the resolution to look for positions in
        blocks = [nn.Sequential(BasicBlock(i, o, s), BasicBlock(o, o, 1)) for i, o, s in stages]
        self.blocks = nn.Sequential(*blocks)
        average = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.pool = SpatialSoftmax() if policy.pooling == "spatial_softmax" else average
        self.width = (2 if policy.pooling == "spatial_softmax" else 1) * 8 * c
        # Constants, of which a network without numbers (on the meta device) has them too.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN, device="cpu").view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD, device="cpu").view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Return features float32 N F of uint8 N H W 3 frames."""
        return self.features(frames.float().permute(0, 3, 1, 2) / 255.0)

    def features(self, x: Tensor) -> Tensor:
        """Return features N F of frames N 3 H W in [0, 1]: what training differentiates."""
        if self.image_size is not None:
            x = functional.interpolate(x, self.image_size, mode="bilinear", align_corners=False)
        return self.pool(self.blocks(self.stem((x - self.mean) / self.std)))


class FilmBlock(nn.Module):
    """Two 1D convolutions, the condition's scale and shift between them."""

    def __init__(self, inputs: int, outputs: int, condition: int, policy: Policy) -> None:
        super().__init__()
        pad = policy.kernel // 2

        def convolve(channels: int) -> nn.Sequential:
            conv = nn.Conv1d(channels, outputs, policy.kernel, padding=pad)
            return nn.Sequential(conv, nn.GroupNorm(policy.groups, outputs), nn.Mish())

        self.first, self.second = convolve(inputs), convolve(outputs)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * outputs))
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[..., None].chunk(2, 1)
        return self.second(scale * self.first(x) + shift) + self.skip(x)


class ActionUNet(nn.Module):
    """The noise in noisy actions: state N horizon D, step N and features N F to epsilon N horizon D (Eq. 6)."""

    def __init__(self, policy: Policy, features: int) -> None:
        super().__init__()
        self.step_embed = policy.step_embed
        wide = 4 * policy.step_embed
        self.step = nn.Sequential(nn.Linear(policy.step_embed, wide), nn.Mish(), nn.Linear(wide, policy.step_embed))
        condition = policy.step_embed + features
        sizes = (policy.dof, *policy.widths)
        self.down = nn.ModuleList()
        for i, (a, b) in enumerate(pairwise(sizes)):
            last = i == len(policy.widths) - 1
            halve = nn.Identity() if last else nn.Conv1d(b, b, 3, 2, 1)
            self.down.append(
                nn.ModuleList([FilmBlock(a, b, condition, policy), FilmBlock(b, b, condition, policy), halve])
            )
        deepest = policy.widths[-1]
        self.middle = nn.ModuleList([FilmBlock(deepest, deepest, condition, policy) for _ in range(2)])
        self.up = nn.ModuleList()
        for a, b in zip(policy.widths[:0:-1], policy.widths[-2::-1], strict=True):
            double = nn.ConvTranspose1d(b, b, 4, 2, 1)
            self.up.append(
                nn.ModuleList([FilmBlock(2 * a, b, condition, policy), FilmBlock(b, b, condition, policy), double])
            )
        first = policy.widths[0]
        self.last = nn.Sequential(
            nn.Conv1d(first, first, policy.kernel, padding=policy.kernel // 2),
            nn.GroupNorm(policy.groups, first),
            nn.Mish(),
            nn.Conv1d(first, policy.dof, 1),
        )

    def forward(self, state: Tensor, step: Tensor, features: Tensor) -> Tensor:
        half = self.step_embed // 2
        rates = torch.exp(torch.arange(half, device=state.device) * (-math.log(10000.0) / (half - 1)))
        angles = step[:, None] * rates
        condition = torch.cat([self.step(torch.cat([angles.sin(), angles.cos()], 1)), features], 1)
        x, skips = state.transpose(1, 2), []
        for first, second, halve in cast(Any, self.down):
            x = second(first(x, condition), condition)
            skips.append(x)
            x = halve(x)
        for block in self.middle:
            x = block(x, condition)
        for first, second, double in cast(Any, self.up):
            x = double(second(first(torch.cat([x, skips.pop()], 1), condition), condition))
        return self.last(x).transpose(1, 2)
