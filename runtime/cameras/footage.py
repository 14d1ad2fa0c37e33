"""Recordings in: an image, a folder of images, or a video of any size, rate and codec."""

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import CameraLostError, CameraMismatchError
from ..types import ImageArray
from .image import check_size, crop_box, fit
from .video import check_file, kind, video_frames

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
STREAMS = (".h264", ".264", ".h265", ".265", ".hevc", ".mjpeg", ".mjpg")
"""Bare: what a camera's encoder gives, without a container."""
FILMS = (
    ".mp4",
    ".mov",
    ".mkv",
    ".avi",
    ".webm",
    ".m4v",
    ".gif",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".m2ts",
    ".3gp",
    ".flv",
)
VIDEOS = (*FILMS, *STREAMS)
FOLDER_FPS = 10.0
"""Rate of a folder of images, which carries no times of its own."""


@dataclass(frozen=True, slots=True)
class Footage:
    """Frames with their times; ``frames()`` starts over from the first and keeps one frame in memory."""

    path: Path
    frames: Callable[[], Iterator[tuple[float, ImageArray]]]

    def sampled(self, fps: float, count: int, start_s: float = 0.0, size: tuple[int, int] | None = None) -> ImageArray:
        """Return up to ``count`` frames, uint8 T H W 3, the newest at each of the times ``start_s + k / fps``.

        With ``size`` (height, width) each is fitted to it before the next is kept: many large ones do not fit into memory.
        Raises `CameraLostError` where the recording ends before ``start_s``, `CameraMismatchError` where the size changes.
        """
        chosen = _Chosen(self.path, size)
        last: ImageArray | None = None
        for time_s, image in self.frames():
            while last is not None and len(chosen) < count and time_s > start_s + len(chosen) / fps + 1e-6:
                chosen.add(last)
            last = image
            if len(chosen) >= count:
                break
            end_s = time_s
        else:
            while last is not None and len(chosen) < count and end_s + 1e-6 >= start_s + len(chosen) / fps:
                chosen.add(last)
        if not len(chosen):
            raise CameraLostError("CAMERA_EMPTY", f"{self.path} has no frame at {start_s:g} s; set --at inside it")
        return np.stack(chosen.images)


class _Chosen:
    """Frames of one size, fitted to ``size`` if it is given."""

    def __init__(self, path: Path, size: tuple[int, int] | None) -> None:
        self.images: list[ImageArray] = []
        self._path, self._size, self._recorded = path, size, ""

    def __len__(self) -> int:
        return len(self.images)

    def add(self, image: ImageArray) -> None:
        """Keep ``image``; raises `CameraMismatchError` where it is of another size than the first."""
        recorded = f"{image.shape[1]} x {image.shape[0]}"
        if self._recorded not in ("", recorded):
            sizes = f"{self._recorded}, {recorded}"
            message = f"{self._path}: wanted frames of one size, got {sizes}; give a recording of one camera"
            raise CameraMismatchError("CAMERA_FRAME", message)
        self._recorded = recorded
        self.images.append(image if self._size is None else fit(image, *self._size))


def open_footage(path: Path) -> Footage:
    """Return the recording at ``path``; raises `CameraLostError` where it is missing, empty, or no file or folder."""
    if kind(path) == "folder":
        images = (p for p in path.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("."))
        files = sorted(images, key=_natural)
        if not files:
            raise CameraLostError("CAMERA_EMPTY", f"{path} holds no images; wanted files ending in {', '.join(IMAGES)}")
        return Footage(path, lambda: ((k / FOLDER_FPS, _image(file)) for k, file in enumerate(files)))
    if path.suffix.lower() in IMAGES:
        return Footage(path, lambda: iter([(0.0, _image(path))]))
    if path.suffix.lower() in VIDEOS:
        return Footage(path, lambda: video_frames(path))
    raise CameraLostError(
        "CAMERA_KIND", f"{path}: wanted a folder, an image ({', '.join(IMAGES)}) or a video ({', '.join(VIDEOS)})"
    )


def fit_note(size: tuple[int, int], target: tuple[int, int]) -> str:
    """Return what happens to a frame of ``size`` (height, width) on its way to ``target``."""
    left, top, right, bottom = crop_box(*size, *target)
    cropped = "" if (bottom - top, right - left) == size else f", cropped to {right - left} x {bottom - top}"
    return f"{size[1]} x {size[0]}{cropped}, resampled to {target[1]} x {target[0]}"


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort frame2 before frame10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.name) if part]


def _image(path: Path) -> ImageArray:
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we look at the size ourselves
            opened = Image.open(path)
        with opened as image:
            check_size(path, image.width, image.height)
            return _rgb(image)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, CameraLostError):
            raise
        raise CameraLostError("CAMERA_UNREADABLE", f"cannot read {path}: {error}") from None


def _rgb(image: Image.Image) -> ImageArray:
    """Return the image upright, as its EXIF orientation says; Pillow would cut 16-bit grey off at 255 instead of scaling it."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        grey = np.clip(np.asarray(upright, np.int32) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(upright.convert("RGB"))
