"""A run of the training loop in a process of its own: what is killed, what is started twice, what is sharded.

Arguments: output folder, steps, and then any of ``muon``, ``shard``, ``slow``, ``nan``.
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from dvgwm.training.config import PartSettings
from dvgwm.training.loop import Watch, train


class Points(Dataset):
    """Sixteen fixed points of a map that a small network can learn."""

    def __init__(self, slow):
        generator = torch.Generator().manual_seed(1)
        self.x, self.slow = torch.randn(16, 8, generator=generator), slow
        self.y = torch.tanh(self.x @ torch.randn(8, 4, generator=generator))

    def __len__(self):
        return 16

    def __getitem__(self, index):
        time.sleep(0.02 * self.slow)
        return {"x": self.x[index], "y": self.y[index]}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class Fit(nn.Module):
    def __init__(self, poison):
        super().__init__()
        self.first, self.blocks, self.last = (
            nn.Linear(8, 32),
            nn.ModuleList(Block() for _ in range(2)),
            nn.Linear(32, 4),
        )
        self.poison = poison

    def forward(self, batch, generator):
        noise = 0.05 * torch.randn(batch["x"].shape, generator=generator)
        x = self.first(batch["x"] + noise)
        for block in self.blocks:
            x = block(x)
        return (self.last(x) - batch["y"]).square().mean() * (float("nan") if self.poison else 1.0)


def main(out, steps, *words):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    part = PartSettings(
        steps=int(steps), batch=4, learning_rate=1e-2, clip=1.0, warmup=5, ema=0.9, precision="float32", log_every=1,
        watch_every=10, checkpoint_every=5, optimiser="muon" if "muon" in words else "adamw", shard="shard" in words,
    )  # fmt: skip
    points = Points("slow" in words)
    train(part, Fit("nan" in words), points, Path(out), 3, lambda progress: None, Watch(points))


if __name__ == "__main__":
    main(*sys.argv[1:])
