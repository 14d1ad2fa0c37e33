"""Which frames of a camera are new: of one size, in order, not repeated. What is not new makes the camera old, and told so."""

from dataclasses import dataclass, field, replace

import numpy as np

from ..arrivals import Arrivals
from ..errors import CameraMismatchError
from ..types import ImageArray
from .slots import Tally
from .source import Frame

FROZEN_FRAMES = 5
"""A noisy camera that shows the same pixels so often in a row is frozen."""


@dataclass(slots=True)
class Watch:
    """What is known of a camera so far; ``noisy`` as its `source.Source` says."""

    noisy: bool
    tally: Tally
    _arrivals: Arrivals = field(default_factory=Arrivals)
    _last: ImageArray | None = None
    _repeats: int = 0

    def taken_s(self, frame: Frame, arrived_s: float) -> float | None:
        """Return when a new frame was taken, on our clock; None for one that is not new, which is counted.

        Raises `CameraMismatchError` for a frame of another type, or of another size than the first.
        """
        image, last = frame.image, self._last
        shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
        wanted = "uint8 H W 3" if last is None else f"uint8 {list(last.shape)}"
        if (
            shape is None
            or len(shape) != 3
            or shape[2] != 3
            or dtype != np.uint8
            or (last is not None and shape != last.shape)
        ):
            raise CameraMismatchError("CAMERA_FRAME", f"wanted {wanted} of the camera, got {dtype} {list(shape or ())}")
        at_s = self._arrivals.made_s(frame.stamp_s, arrived_s)
        if at_s is None:
            self.tally = replace(self.tally, old=self.tally.old + 1)
            return None
        same = self.noisy and last is not None and np.array_equal(image, last)
        self._repeats = self._repeats + 1 if same else 0
        self._last = image
        if self._repeats >= FROZEN_FRAMES:
            self.tally = replace(self.tally, frozen=self.tally.frozen + 1)
            return None
        self.tally = replace(self.tally, written=self.tally.written + 1)
        return at_s
