"""Recordings in: an image, a folder of images, or a video of any size, rate and codec."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import CameraLostError, CameraMismatchError
from ..types import ImageArray
from .image import crop_box

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".gif", ".mpg", ".mpeg", ".ts")
FOLDER_FPS = 10.0
"""Rate of a folder of images, which carries no times of its own."""


@dataclass(frozen=True, slots=True)
class Footage:
    """Frames with their times; ``frames()`` starts over from the first and keeps one frame in memory."""

    path: Path
    frames: Callable[[], Iterator[tuple[float, ImageArray]]]

    def sampled(self, fps: float, count: int, start_s: float = 0.0) -> ImageArray:
        """Return up to ``count`` frames, uint8 T H W 3, the newest at each of the times ``start_s + k / fps``.

        Raises `CameraLostError` where the recording ends before ``start_s``, `CameraMismatchError` where the size changes.
        """
        chosen: list[ImageArray] = []
        last: ImageArray | None = None
        for time_s, image in self.frames():
            while last is not None and len(chosen) < count and time_s > start_s + len(chosen) / fps + 1e-6:
                chosen.append(last)
            last = image
            if len(chosen) >= count:
                break
            end_s = time_s
        else:
            while last is not None and len(chosen) < count and end_s + 1e-6 >= start_s + len(chosen) / fps:
                chosen.append(last)
        if not chosen:
            raise CameraLostError("CAMERA_EMPTY", f"{self.path} has no frame at {start_s:g} s; set --at inside it")
        return _stack(chosen, self.path)


def open_footage(path: Path) -> Footage:
    """Return the recording at ``path``; raises `CameraLostError` where it is missing, empty or cannot be read."""
    if not path.exists():
        raise CameraLostError("CAMERA_MISSING", f"no recording at {path}; give an image, a folder or a video")
    if path.is_dir():
        images = (p for p in path.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("."))
        files = sorted(images, key=_natural)
        if not files:
            raise CameraLostError("CAMERA_EMPTY", f"{path} holds no images; wanted files ending in {', '.join(IMAGES)}")
        return Footage(path, lambda: ((k / FOLDER_FPS, _image(file)) for k, file in enumerate(files)))
    if path.suffix.lower() in IMAGES:
        return Footage(path, lambda: iter([(0.0, _image(path))]))
    if path.suffix.lower() in VIDEOS:
        return Footage(path, lambda: _video(path))
    raise CameraLostError(
        "CAMERA_KIND", f"{path}: wanted a folder, an image ({', '.join(IMAGES)}) or a video ({', '.join(VIDEOS)})"
    )


def fit_note(size: tuple[int, int], target: tuple[int, int]) -> str:
    """Return what happens to a frame of ``size`` (height, width) on its way to ``target``."""
    left, top, right, bottom = crop_box(*size, *target)
    cropped = "" if (bottom - top, right - left) == size else f", cropped to {right - left} x {bottom - top}"
    return f"{size[1]} x {size[0]}{cropped}, resampled to {target[1]} x {target[0]}"


def _stack(images: Sequence[ImageArray], path: Path) -> ImageArray:
    sizes = dict.fromkeys(f"{image.shape[1]} x {image.shape[0]}" for image in images)
    if len(sizes) > 1:
        message = f"{path}: wanted frames of one size, got {', '.join(sizes)}; give a recording of one camera"
        raise CameraMismatchError("CAMERA_FRAME", message)
    return np.stack(images)


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort frame2 before frame10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.name) if part]


def _image(path: Path) -> ImageArray:
    try:
        with Image.open(path) as image:
            return _rgb(image)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise CameraLostError("CAMERA_UNREADABLE", f"cannot read {path}: {error}") from None


def _rgb(image: Image.Image) -> ImageArray:
    """Return the image upright, as its EXIF orientation says; Pillow would cut 16-bit grey off at 255 instead of scaling it."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        grey = np.clip(np.asarray(upright, np.int32) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(upright.convert("RGB"))


def _video(path: Path) -> Iterator[tuple[float, ImageArray]]:
    try:
        import av
    except ImportError:
        raise CameraLostError("CAMERA_PYAV", f"reading {path.name} needs PyAV: pip install 'dvgwm[video]'") from None
    start_s: float | None = None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise CameraLostError("CAMERA_UNREADABLE", f"{path} has no video in it")
            for frame in container.decode(video=0):
                time_s = float(frame.time or 0.0)
                start_s = time_s if start_s is None else start_s
                # Phones and mounted cameras record sideways and state the turn, counter-clockwise in degrees (PyAV 14.1).
                turns = round(getattr(frame, "rotation", 0) / 90)
                yield time_s - start_s, np.rot90(frame.to_ndarray(format="rgb24"), turns)
    except av.FFmpegError as error:
        raise CameraLostError("CAMERA_UNREADABLE", f"cannot read {path}: {error}") from None
    if start_s is None:
        raise CameraLostError("CAMERA_UNREADABLE", f"{path} has no frames")
