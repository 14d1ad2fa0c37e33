"""Which frames of a camera are new: of one size, in order, not repeated. What is not new makes the camera old, and told so."""

import zlib
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from ..arrivals import Arrivals
from ..errors import CameraMismatchError
from .slots import Tally
from .source import Frame

FROZEN_FRAMES = 5
"""A noisy camera that shows the same frame so often in a row is frozen; one that shows so many older ones shows no present."""
REMEMBERED = 900
"""So many frames are known again: half a minute."""
SAMPLED_BYTES = 250_000


@dataclass(slots=True)
class Watch:
    """What is known of a camera so far; ``noisy`` as its `source.Source` says."""

    noisy: bool
    tally: Tally
    _arrivals: Arrivals = field(default_factory=Arrivals)
    _shape: tuple[int, ...] | None = None
    _known: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _repeats: int = 0
    _looped: int = 0

    @property
    def said(self) -> str:
        """How the camera's clock was set, in words; nothing while it was not."""
        return self._arrivals.said

    def taken_s(self, frame: Frame, arrived_s: float, wall_s: float) -> float | None:
        """Return when a new frame was taken, on our clock; None for one that is not new, which is counted.

        ``wall_s`` is the time of day at its arrival. Raises `CameraMismatchError` for a frame of another type, or of another
        size than the first, and where its stamps or frames are those of a recording that begins anew.
        """
        image, first = frame.image, self._shape
        shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
        wanted = "uint8 H W 3" if first is None else f"uint8 {list(first)}"
        if (
            shape is None
            or len(shape) != 3
            or shape[2] != 3
            or dtype != np.uint8
            or (first is not None and shape != first)
        ):
            raise CameraMismatchError("CAMERA_FRAME", f"wanted {wanted} of the camera, got {dtype} {list(shape or ())}")
        self._shape = shape
        at_s = self._arrivals.made_s(frame.stamp_s, arrived_s, wall_s if frame.here else None)
        if self._arrivals.fault is not None:
            raise CameraMismatchError("CAMERA_CLOCK", f"{self._arrivals.fault}; look at what publishes its pictures")
        if at_s is None:
            self.tally = replace(self.tally, old=self.tally.old + 1)
            return None
        if self._is_frozen(frame):
            self.tally = replace(self.tally, frozen=self.tally.frozen + 1)
            return None
        self.tally = replace(self.tally, written=self.tally.written + 1)
        return at_s

    def _is_frozen(self, frame: Frame) -> bool:
        """Return whether a noisy camera shows its last frame again and again; raises `CameraMismatchError` for older ones."""
        if not self.noisy:
            return False
        rows = frame.image[:: 1 + frame.image.size // SAMPLED_BYTES]
        mark = zlib.crc32(np.ascontiguousarray(rows).data)
        again = bool(self._known) and mark == self._known[-1]
        self._repeats = self._repeats + 1 if again else 0
        self._looped = self._looped + 1 if mark in self._known and not again else 0
        if self._looped >= FROZEN_FRAMES:
            raise CameraMismatchError(
                "CAMERA_LOOP", "the camera shows frames of earlier again, one after the other; restart its driver"
            )
        self._known.append(mark)
        return self._repeats >= FROZEN_FRAMES
