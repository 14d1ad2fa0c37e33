"""Turns overlapping action chunks, several samples of each, into one row of actions, and says how far the samples disagree."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bundle.manifest import StageSpec
from .errors import BundleIncompatibleError
from .types import DoubleArray, FloatArray


@dataclass(frozen=True, slots=True)
class Chunking:
    """Where the action chunks of a plan of ``frames`` frames begin, and which frames each of them is shown.

    A chunk begins every ``stride`` frames and sees those at ``offsets`` from its start; the last one still sees all of
    its frames. The plan has an action for every step from one frame to the next.
    """

    frames: int
    stride: int
    offsets: tuple[int, ...]

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first frame of every chunk."""
        return np.arange(0, self.frames - max(self.offsets), self.stride)

    @property
    def shown(self) -> NDArray[np.int64]:
        """The frames that any chunk is shown, each once."""
        return np.unique(self._by_chunk)

    @property
    def shown_index(self) -> NDArray[np.int64]:
        """For every chunk and offset, where among ``shown`` its frame is."""
        return np.searchsorted(self.shown, self._by_chunk)

    @property
    def actions(self) -> int:
        """How many actions the plan has."""
        return self.frames - 1

    @property
    def _by_chunk(self) -> NDArray[np.int64]:
        return np.asarray(self.starts[:, None] + np.asarray(self.offsets))


def chunking(spec: StageSpec) -> Chunking:
    """Return the chunks of a diffusion policy's stage; raises `BundleIncompatibleError` where they leave actions out."""
    chunks = Chunking(int(spec.number("frames")), int(spec.number("stride")), tuple(map(int, spec.vector("offsets"))))
    horizon = len(spec.vector("blend"))
    if not len(chunks.starts) or chunks.starts[-1] + horizon < chunks.actions or chunks.stride > horizon:
        raise BundleIncompatibleError(
            "STAGE_CHUNKS",
            f"stage {spec.name}: chunks of {horizon} actions every {chunks.stride} frames leave some of "
            f"{chunks.actions} out",
        )
    return chunks


def agree(samples: FloatArray, medoid_above: float) -> tuple[FloatArray, FloatArray]:
    """Return what S samples of C chunks (S C H D, in [-1, 1]) come to, C H D, and their standard deviation, C H D.

    The mean, where the condition fixes the action; a chunk whose deviation is above ``medoid_above`` (root mean square over
    the chunk) has several ways to go, between which the mean is none: there it is the sample nearest to all others.
    """
    chosen, spread = samples.mean(0), samples.std(0)
    divided = np.sqrt(np.square(spread).mean((1, 2))) > medoid_above
    for chunk in np.flatnonzero(divided):
        ways = samples[:, chunk]
        distances = np.square(ways[:, None] - ways[None]).sum((2, 3))
        chosen[chunk] = ways[int(distances.sum(1).argmin())]
    return chosen, spread


def blend(
    chunks: FloatArray, starts: Sequence[int] | NDArray[np.int64], weights: FloatArray, actions: int
) -> DoubleArray:
    """Return ``actions`` rows, the mean of the chunks C H D that reach over each, weighted by their place in the chunk (H)."""
    total, weight = np.zeros((actions, chunks.shape[2])), np.zeros((actions, 1))
    for start, chunk in zip(starts, chunks, strict=True):
        count = min(len(chunk), actions - int(start))
        total[start : start + count] += weights[:count, None] * chunk[:count]
        weight[start : start + count] += weights[:count, None]
    return np.asarray(total / weight, np.float64)
