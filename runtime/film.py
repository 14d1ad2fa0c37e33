"""The frames of a run, as many as fit into a bound: a run may go on for hours, and what it shows of itself may not."""

import numpy as np

from .types import ImageArray

MOST_FRAMES, MOST_BYTES = 1_200, 192_000_000
"""Two minutes at ten frames a second; at 480 x 720 pixels eighteen seconds."""


class Film:
    """Frames in their order. When it is full, every second one is let go, and from then on only every second one is taken.

    So it shows the whole run at any time, with ``every`` frame of it that is a multiple of that number.
    """

    def __init__(self, most_frames: int = MOST_FRAMES, most_bytes: int = MOST_BYTES) -> None:
        self.every, self.seen = 1, 0
        self._most_frames, self._most_bytes = most_frames, most_bytes
        self._frames: list[ImageArray] = []

    def add(self, frame: ImageArray) -> None:
        """Take the run's next frame, uint8 H W 3; it is copied, so that what it is a part of can be let go."""
        if self.seen % self.every == 0:
            self._frames.append(frame.copy())
        self.seen += 1
        while len(self._frames) > 2 and (len(self._frames) > self._most_frames or self.nbytes > self._most_bytes):
            self._frames, self.every = self._frames[::2], 2 * self.every

    @property
    def nbytes(self) -> int:
        """How many bytes the frames take."""
        return sum(frame.nbytes for frame in self._frames)

    def frames(self, every: int) -> ImageArray:
        """Return every so-manieth frame of the run, uint8 T H W 3; ``every`` is a multiple of the film's own."""
        return np.stack(self._frames[:: every // self.every])


def together(one: Film, other: Film) -> tuple[ImageArray, ImageArray, int]:
    """Return the frames of two films of one run that were taken at the same times, and how many of the run one stands for."""
    every = max(one.every, other.every)
    return one.frames(every), other.frames(every), every
