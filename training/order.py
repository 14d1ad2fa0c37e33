"""The samples of each step, by seed and step alone: a stopped loop goes on with the same batches."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class BatchOrder(Sampler[list[int]]):
    """Batches of indices from step ``start`` on, each epoch its own permutation; ``place`` is (process, processes)."""

    def __init__(self, size: int, batch: int, seed: int, start: int = 0, place: tuple[int, int] = (0, 1)) -> None:
        self.size, self.batch, self.seed, self.start, self.place = size, batch, seed, start, place

    def __iter__(self) -> Iterator[list[int]]:
        rank, world = self.place
        epoch, order = -1, torch.empty(0)
        step = self.start
        while True:
            chosen = []
            for n in range(self.batch):
                position = (step * world + rank) * self.batch + n
                if position // self.size != epoch:
                    epoch = position // self.size
                    order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed * 7919 + epoch))
                chosen.append(int(order[position % self.size]))
            yield chosen
            step += 1
