"""The newest frame, in memory that two processes share: one writes, the other reads when it likes, and neither waits."""

import mmap
import os
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from ..types import ImageArray

HEAD = struct.Struct("<QQQQ")
"""Frames written; those left out as seen before or out of order, and as frozen; whether the camera is a recording."""
SLOT = struct.Struct("<QdI4x")
"""Which frame it holds, when that was taken on the machine's monotonic clock, checksum of both and its pixels."""
SLOTS = 3
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Tally:
    """How many frames were ``written``, and left out because they were seen before, out of order (``old``) or ``frozen``."""

    written: int = 0
    old: int = 0
    frozen: int = 0
    recorded: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame as it is read: its number, when it was taken, and its pixels."""

    number: int
    at_s: float
    image: ImageArray


class Slots:
    """Memory for frames of one size; ``fd`` is handed to the other process."""

    def __init__(self, height_px: int, width_px: int, fd: int | None = None) -> None:
        self._shape = (height_px, width_px, 3)
        self._stride = SLOT.size + height_px * width_px * 3
        size = HEAD.size + SLOTS * self._stride
        self.fd = os.memfd_create("dvgwm-camera") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, size)
        self._memory = mmap.mmap(self.fd, size)

    def write(self, image: ImageArray, at_s: float, tally: Tally) -> None:
        """Write the frame that makes ``tally.written`` of them."""
        start = self._start(tally.written)
        pixels = np.ascontiguousarray(image).tobytes()
        SLOT.pack_into(self._memory, start, 0, 0.0, 0)
        self._memory[start + SLOT.size : start + self._stride] = pixels
        SLOT.pack_into(self._memory, start, tally.written, at_s, _checksum(tally.written, at_s, pixels))
        self.count(tally)

    def count(self, tally: Tally) -> None:
        """Tell how many frames there were, and which were left out."""
        HEAD.pack_into(self._memory, 0, tally.written, tally.old, tally.frozen, tally.recorded)

    def tally(self) -> Tally:
        """Return how many frames there were."""
        written, old, frozen, recorded = HEAD.unpack_from(self._memory)
        return Tally(written, old, frozen, bool(recorded))

    def newest_s(self) -> float | None:
        """Return when the newest frame was taken, None before the first."""
        number = self.tally().written
        of_slot, at_s, _ = SLOT.unpack_from(self._memory, self._start(number))
        return at_s if number and of_slot == number else None

    def newest(self) -> Shown | None:
        """Return the newest frame, None before the first; one that is overwritten meanwhile is not returned."""
        for _ in range(ATTEMPTS):
            number = self.tally().written
            if not number:
                return None
            start = self._start(number)
            of_slot, at_s, checksum = SLOT.unpack_from(self._memory, start)
            pixels = self._memory[start + SLOT.size : start + self._stride]
            if of_slot == number and _checksum(number, at_s, pixels) == checksum:
                return Shown(number, at_s, np.frombuffer(pixels, np.uint8).reshape(self._shape))
        return None

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        os.close(self.fd)

    def _start(self, number: int) -> int:
        return HEAD.size + number % SLOTS * self._stride


def _checksum(number: int, at_s: float, pixels: bytes) -> int:
    # The number too: a reader that waits between two bytes of the slot's head may have the halves of two frames' heads.
    return zlib.crc32(pixels, zlib.crc32(struct.pack("<Qd", number, at_s)))
