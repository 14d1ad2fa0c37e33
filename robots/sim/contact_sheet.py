"""Many frames in one image, to look an episode over."""

from collections.abc import Sequence

import numpy as np

from dvgwm.runtime.types import ImageArray

PAPER = 255


def contact_sheet(frames: Sequence[ImageArray], columns: int, gap_px: int = 2) -> ImageArray:
    """Return uint8 H W 3 frames of one size in rows of ``columns``, left to right, with white gaps."""
    height, width = frames[0].shape[:2]
    rows = -(-len(frames) // columns)
    size = (rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3)
    sheet: ImageArray = np.full(size, PAPER, np.uint8)
    for index, frame in enumerate(frames):
        top, left = (height + gap_px) * (index // columns), (width + gap_px) * (index % columns)
        sheet[top : top + height, left : left + width] = frame
    return sheet
