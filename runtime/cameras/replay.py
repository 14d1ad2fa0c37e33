"""A recording as a camera: its frames when they are due, from the beginning again at its end."""

import time
from collections.abc import Iterator
from pathlib import Path

from ..types import ImageArray
from .footage import open_footage
from .source import Frame

STILL_S = 0.1
"""Between the last frame and the first, and between two looks at a single image."""


class Replay:
    """A recording that is played in real time; implements `source.Source`."""

    recorded, noisy = True, False

    def __init__(self, path: Path) -> None:
        self._footage = open_footage(path)
        self._begun_s = time.monotonic()
        self._frames: Iterator[tuple[float, ImageArray]] = self._footage.frames()
        self._next = next(self._frames)

    def read(self, seconds: float) -> Frame | None:
        """Return the next frame when it is due."""
        due_s, image = self._next
        left_s = self._begun_s + due_s - time.monotonic()
        time.sleep(max(0.0, min(left_s, seconds)))
        if left_s > seconds:
            return None
        following = next(self._frames, None)
        if following is None:
            self._begun_s += due_s + STILL_S
            self._frames = self._footage.frames()
            following = next(self._frames)
        self._next = following
        return Frame(image)

    def close(self) -> None:
        """Nothing is held open."""


def open_file(place: str) -> Replay:
    """Return the recording at the path ``place`` as a camera; raises as `footage.open_footage`."""
    return Replay(Path(place))
