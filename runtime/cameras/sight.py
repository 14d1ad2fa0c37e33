"""Whether a frame shows anything, and anything new: a camera can be lost without saying so."""

import numpy as np

from ..errors import CameraLostError
from ..types import ImageArray, Observation

SPREAD = 12
"""Grey levels between the darkest and the brightest fiftieth of a frame that shows something; noise alone has fewer."""
MOVED_RAD = 0.2
"""How far a joint goes before the frame has to change."""
SAMPLES = 100_000


def check_sight(observation: Observation, before: Observation | None, camera: str) -> None:
    """Raise `CameraLostError` where the camera's frame shows nothing, or what it showed before the arm moved.

    ``before`` is an earlier observation, None if there is none. A camera that is missing or of another size is not judged.
    """
    image = observation.images.get(camera)
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.dtype != np.uint8 or not image.size:
        return
    if _blank(image):
        raise CameraLostError(
            "CAMERA_BLANK",
            f"camera {camera}: wanted a picture, got one shade of {image.mean():.0f}; look at lens and light",
        )
    seen = None if before is None else before.images.get(camera)
    if before is None or seen is None or not np.array_equal(image, seen):
        return
    moved = np.abs(np.asarray(observation.joints)[:-1] - np.asarray(before.joints)[:-1]).max(initial=0.0)
    if moved > MOVED_RAD:
        raise CameraLostError(
            "CAMERA_FROZEN",
            f"camera {camera}: the same picture after the arm moved by {moved:.2f} rad; restart the camera",
        )


def _blank(image: ImageArray) -> bool:
    stride = max(1, round((image.size / SAMPLES) ** 0.5))
    darkest, brightest = np.percentile(image[::stride, ::stride], (2, 98))
    return bool(brightest - darkest < SPREAD)
