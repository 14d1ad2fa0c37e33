"""The pictures of an episode's rows: each row has the frame of its own time stamp, within the format's tolerance."""

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from dvgwm.runtime.cameras.image import check_size
from dvgwm.runtime.cameras.video import UNTIMED, check_file, opened_video, picture
from dvgwm.runtime.errors import CameraLostError
from dvgwm.runtime.types import DoubleArray, ImageArray

from .metadata import VideoSpan

TOLERANCE_S = 1e-4
"""LeRobot's: a row and its frame are no further apart."""
SEEK_FRAMES = 30
"""A frame that is further ahead is looked for from its key frame."""


class MisalignedError(ValueError):
    """A disagreement between rows and pictures, in words."""


class VideoFile:
    """A video file, read by its frames' times; ``times_s`` has all of them, in order.

    Raises `CameraLostError` if it is missing, damaged, or without times.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        with opened_video(path) as (container, stream):
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
            if container.format.name in UNTIMED or not packets or any(packet.pts is None for packet in packets):
                raise CameraLostError("CAMERA_UNTIMED", f"{path}: its container states no frame's time; make it an mp4")
            # Rows are compared with what the file can state: its clock ticks so often.
            self.tick_s = float(stream.time_base)
            self._keys = sorted((packet.pts, packet.dts) for packet in packets if packet.is_keyframe)
            self._stamps = np.array(sorted(packet.pts for packet in packets), np.int64)
        self.times_s: DoubleArray = np.asarray(self._stamps * self.tick_s, np.float64)
        self._container, self._stream = self._stack.enter_context(opened_video(path))
        self._decoded: Iterator[Any] = self._container.decode(self._stream)
        self._last = -1

    @property
    def period_s(self) -> float | None:
        """Seconds between frames, if they are all equally far apart; else None."""
        apart = np.diff(self._stamps)
        return float(apart.mean() * self.tick_s) if len(apart) and np.ptp(apart) <= 1 else None

    def frames(self, numbers: Sequence[int]) -> Iterator[ImageArray]:
        """Yield the frames ``numbers``, ascending, uint8 H W 3."""
        for number in numbers:
            yield self._frame(number)

    def close(self) -> None:
        """Let go of the file."""
        self._stack.close()

    def _frame(self, number: int) -> ImageArray:
        from av import FFmpegError

        wanted = int(self._stamps[number])
        if number <= self._last or number > self._last + SEEK_FRAMES:
            self._seek(wanted)
        with suppress(FFmpegError):
            for frame in self._decoded:
                if frame.pts == wanted:
                    self._last = number
                    return picture(self.path, frame, self._stream.sample_aspect_ratio)
                if frame.pts is None or frame.pts > wanted:
                    break
        raise CameraLostError("CAMERA_UNREADABLE", f"{self.path}: its frame at {self.times_s[number]:.4f} s is damaged")

    def _seek(self, wanted: int) -> None:
        """Go to the last key frame not after ``wanted``."""
        before = [dts if dts is not None else pts for pts, dts in self._keys if pts <= wanted]
        if before:
            self._container.seek(before[-1], stream=self._stream)
        self._decoded = self._container.decode(self._stream)


def frame_numbers(film: VideoFile, span: VideoSpan, stamps_s: DoubleArray, fps: float) -> list[int]:
    """Return the number of each row's frame, for rows at ``stamps_s`` of an episode in ``span`` of ``film``.

    Raises `MisalignedError` if a row has no frame within the tolerance, two have the same one, a row lies outside the span,
    or evenly spaced rows and frames differ in number.
    """
    wanted_s = span.from_s + stamps_s
    # Stamps are single precision, and a file's clock has ticks.
    tolerance_s = TOLERANCE_S + film.tick_s / 2 + np.spacing(np.abs(stamps_s).astype(np.float32))
    right = np.clip(np.searchsorted(film.times_s, wanted_s), 1, max(1, len(film.times_s) - 1))
    left = np.minimum(right - 1, len(film.times_s) - 1)
    right = np.minimum(right, len(film.times_s) - 1)
    nearest = np.where(np.abs(film.times_s[left] - wanted_s) <= np.abs(film.times_s[right] - wanted_s), left, right)
    off_s = np.abs(film.times_s[nearest] - wanted_s)
    if len(lost := np.flatnonzero((off_s > tolerance_s) | (wanted_s >= span.to_s + tolerance_s))):
        row = lost[0]
        raise MisalignedError(
            f"{len(lost)} of {len(stamps_s)} rows have no frame of their time in {film.path}: row {row} is at "
            f"{wanted_s[row]:.4f} s, the nearest frame at {film.times_s[nearest[row]]:.4f} s"
            + (f", the episode ends at {span.to_s:.4f} s" if span.to_s < np.inf else "")
        )
    if len(again := np.flatnonzero(np.diff(nearest) < 1)):
        raise MisalignedError(f"rows {again[0]} and {again[0] + 1} have one frame in {film.path}")
    _check_count(film, span, stamps_s, fps)
    return [int(number) for number in nearest]


def _check_count(film: VideoFile, span: VideoSpan, stamps_s: DoubleArray, fps: float) -> None:
    """Raise `MisalignedError` if evenly spaced rows from 0 and frames differ in number: one was lost silently."""
    period_s = 1 / fps
    even = abs(stamps_s[0]) <= TOLERANCE_S and np.all(np.abs(np.diff(stamps_s) - period_s) < period_s / 2)
    if not even or film.period_s is None:
        return
    slack_s = TOLERANCE_S + film.tick_s
    frames = int(np.sum((film.times_s >= span.from_s - slack_s) & (film.times_s < span.to_s - slack_s)))
    each, rows = max(1, round(period_s / film.period_s)), len(stamps_s)
    if frames not in (each * rows, each * (rows - 1) + 1):
        raise MisalignedError(f"wanted {each * rows} frames for {rows} rows, got {frames} in {film.path}")


def check_spans(film: VideoFile, spans: Sequence[tuple[int, VideoSpan]], fps: float) -> None:
    """Raise `MisalignedError` if the episodes in ``film`` overlap, or the last does not end with it: one is shifted.

    ``spans`` are episodes' indices and their parts of the file. A gap between two is nobody's, and so is the rest behind the
    last one if another episode could be there.
    """
    ordered = sorted(spans, key=lambda each: each[1].from_s)
    slack_s, touching = TOLERANCE_S + film.tick_s, abs(ordered[0][1].from_s - film.times_s[0]) < 0.5 / fps
    for (number, before), (following, after) in itertools.pairwise(ordered):
        if after.from_s < before.to_s - slack_s:
            raise MisalignedError(
                f"episodes {number} and {following} overlap in {film.path}: one ends at {before.to_s:.4f} s, "
                f"the other begins at {after.from_s:.4f} s"
            )
        touching = touching and after.from_s <= before.to_s + slack_s
    last_s = ordered[-1][1].to_s
    missing_s = last_s - film.times_s[-1] - max(1 / fps, film.period_s or 0.0)
    left_s = film.times_s[-1] + slack_s - last_s
    shortest_s = min(span.to_s - span.from_s for _, span in ordered)
    if missing_s > slack_s or (touching and 0 < left_s < shortest_s - 0.5 / fps):
        raise MisalignedError(
            f"episodes {ordered[0][0]} to {ordered[-1][0]} end at {last_s:.4f} s in {film.path}, "
            f"whose last frame is at {film.times_s[-1]:.4f} s"
        )


def stored_pictures(column: pa.ChunkedArray, root: Path) -> Iterator[ImageArray]:
    """Yield the pictures in a table, as files' bytes or as paths under ``root``, uint8 H W 3.

    Raises `MisalignedError` for a damaged or missing one.
    """
    for row, value in enumerate(column):
        stored = value.as_py()
        data, path = (stored.get("bytes"), stored.get("path")) if isinstance(stored, dict) else (stored, None)
        if data is None and isinstance(path, str):
            data = _file(root, path)
        if not isinstance(data, bytes):
            raise MisalignedError(f"row {row}: wanted a picture's bytes or path, got {type(stored).__name__}")
        try:
            with Image.open(io.BytesIO(data)) as image:
                check_size(root, image.width, image.height)
                yield np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise MisalignedError(f"row {row}: its picture cannot be read: {str(error)[:200]}") from None


def _file(root: Path, stored: str) -> bytes:
    path = root / stored
    if ".." in Path(stored).parts or Path(stored).is_absolute():
        raise MisalignedError(f"picture {stored[:200]!r} leads outside the data set")
    check_file(path)
    return path.read_bytes()
