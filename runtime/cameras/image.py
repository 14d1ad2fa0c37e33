"""A camera image at the size that a network wants."""

import numpy as np
from PIL import Image

from ..types import ImageArray


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
