"""A video file's frames as they are meant to be seen: upright, in square pixels, in their own colours, at their own times."""

import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import CameraLostError
from ..types import ImageArray
from .image import check_size

OLDEST_PYAV = 17
"""Older ones read BT.709 with BT.601's colours, some twenty grey levels off."""
WIDEST = 8
"""Of a pixel, as a multiple of its height, and the other way: what states more is damaged."""
DEFAULT_FPS = 25.0
"""Of a bare stream that states no rate, as FFmpeg takes it."""
UNTIMED = ("avi",)
"""Containers that number packets in the order of decoding: with them a frame's own time is another frame's."""


@contextmanager
def opened_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Give the container at ``path`` and its first video stream; errors of both become `CameraLostError`."""
    try:
        import av
    except ImportError:
        raise CameraLostError("CAMERA_PYAV", f"reading {path.name} needs PyAV: pip install 'dvgwm[video]'") from None
    if int(av.__version__.partition(".")[0]) < OLDEST_PYAV:
        raise CameraLostError(
            "CAMERA_PYAV",
            f"wanted PyAV {OLDEST_PYAV} or newer, got {av.__version__}, which reads HD colours wrong: "
            "pip install -U 'dvgwm[video]'",
        )
    check_file(path)
    try:
        # The absolute path: FFmpeg takes what precedes a colon in a relative one for a protocol.
        with av.open(str(path.absolute())) as container:
            if not container.streams.video:
                raise CameraLostError("CAMERA_UNREADABLE", f"{path} has no video in it")
            stream = container.streams.video[0]
            check_size(path, stream.width, stream.height)
            yield container, stream
    except av.FFmpegError as error:
        raise CameraLostError("CAMERA_UNREADABLE", f"cannot read {path}: {error}") from None


def check_file(path: Path) -> None:
    """Raise `CameraLostError` if ``path`` is no plain file: a pipe or a device may never end."""
    if kind(path) != "file":
        raise CameraLostError("CAMERA_KIND", f"{path} is a folder; wanted a file")


def kind(path: Path) -> str:
    """Return whether there is a ``file`` or a ``folder``; raises `CameraLostError` for anything else."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise CameraLostError("CAMERA_MISSING", f"no recording at {path}; give an image, a folder or a video") from None
    except (OSError, ValueError) as error:
        raise CameraLostError("CAMERA_UNREADABLE", f"cannot read {path}: {error}") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise CameraLostError(
            "CAMERA_KIND", f"{path} is no file and no folder; record what it gives, and give the recording"
        )
    return "folder" if stat.S_ISDIR(mode) else "file"


def video_frames(path: Path) -> Iterator[tuple[float, ImageArray]]:
    """Yield the seconds since the first frame, and the frame, uint8 H W 3, for every frame of the video at ``path``.

    A container without times, or with other frames' times, is played at its own rate. Raises `CameraLostError`.
    """
    count = 0
    with opened_video(path) as (container, stream):
        period_s = 1 / float(stream.guessed_rate or DEFAULT_FPS)
        stated = None if container.format.name not in UNTIMED else _packet_times_s(path)
        start_s = last_s = 0.0
        for frame in container.decode(stream):
            time_s = frame.time if stated is None else stated[count] if count < len(stated) else None
            time_s = last_s + period_s * bool(count) if time_s is None else float(time_s)
            start_s = time_s if not count else start_s
            # A stamp that does not go on is damaged: decoders give frames in the order in which they are shown.
            last_s = time_s if not count or time_s > last_s else last_s + period_s
            yield last_s - start_s, picture(path, frame, stream.sample_aspect_ratio)
            count += 1
    if not count:
        raise CameraLostError("CAMERA_UNREADABLE", f"{path} has no frames")


def picture(path: Path, frame: Any, pixel_aspect: Fraction | None) -> ImageArray:
    """Return a decoded ``frame``, uint8 H W 3, as a player shows it: with square pixels, turned and mirrored."""
    check_size(path, frame.width, frame.height)
    image = frame.to_ndarray(format="rgb24")
    aspect = float(pixel_aspect or 1)
    if aspect != 1 and 1 / WIDEST <= aspect <= WIDEST:
        width = max(1, round(frame.width * aspect))
        check_size(path, width, frame.height)
        image = np.asarray(Image.fromarray(image).resize((width, frame.height), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(_upright(image, _display_matrix(frame)))


def _packet_times_s(path: Path) -> list[float]:
    """Return the times of the packets with frames, in order: the n-th frame is shown at the n-th of them."""
    with opened_video(path) as (container, stream):
        packets = (packet for packet in container.demux(stream) if packet.size and packet.pts is not None)
        return sorted(float(packet.pts * packet.time_base) for packet in packets)


def _display_matrix(frame: Any) -> tuple[int, ...] | None:
    from av.sidedata.sidedata import Type

    stated = frame.side_data.get(Type.DISPLAYMATRIX)
    return None if stated is None else struct.unpack("9i", bytes(stated))


def _upright(image: ImageArray, matrix: tuple[int, ...] | None) -> ImageArray:
    """Return ``image`` after the display matrix: column x and row y go to a x + c y and b x + d y (ISO 14496-12, 6.2.2).

    Anything beside quarter turns and mirroring is left out.
    """
    if matrix is None:
        return image
    a, b, _, c, d = matrix[:5]
    right, down = (a, d) if abs(a) + abs(d) >= abs(b) + abs(c) else (c, b)
    turned = image if (right, down) == (a, d) else image.swapaxes(0, 1)
    return turned[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
