"""A camera image at a network's size."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import CameraLostError
from ..types import ImageArray

LARGEST_PX = 40_000_000
"""Of one frame, a little more than 8K: decoded it takes some 700 MB at once."""


def check_size(path: Path, width: int, height: int) -> None:
    """Raise `CameraLostError` if a header's frame is too large to decode in reasonable memory."""
    if not 0 < width * height <= LARGEST_PX:
        raise CameraLostError(
            "CAMERA_LARGE",
            f"{path}: wanted at most {LARGEST_PX // 10**6} million pixels, got {width} x {height}; scale it down first",
        )


def crop_box(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the largest centred crop with the target's aspect."""
    scale = min(height / target_height, width / target_width)
    crop_height, crop_width = round(target_height * scale), round(target_width * scale)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return left, top, left + crop_width, top + crop_height


def fit(image: ImageArray, height: int, width: int) -> ImageArray:
    """Return ``image`` (uint8 H W 3) cropped centrally to the target's aspect and resampled with antialiasing."""
    if image.shape[:2] == (height, width):
        return image
    box = crop_box(image.shape[0], image.shape[1], height, width)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS, box))
