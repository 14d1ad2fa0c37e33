"""Whether a frame shows anything, and anything new: a camera can be lost without saying so."""

import numpy as np

from ..errors import CameraLostError
from ..types import ImageArray, Observation

SPREAD = 12
"""Grey levels between the darkest and the brightest two hundredth of a frame that shows something; noise alone has fewer."""
MOVED_RAD = 0.1
"""How far a joint goes before the frame has to change."""
SAMPLES = 100_000


def check_sight(observation: Observation, since: Observation | None, camera: str) -> Observation:
    """Return the first observation in a row that has this one's frame: what the next one is to be checked with, as ``since``.

    Raises `CameraLostError` where the frame shows nothing, or has not changed though the arm moved. A frame that is missing
    or of another type is not judged.
    """
    image = observation.images.get(camera)
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.dtype != np.uint8 or not image.size:
        return observation
    if _blank(image):
        raise CameraLostError(
            "CAMERA_BLANK",
            f"camera {camera}: wanted a picture, got one shade of {image.mean():.0f}; look at lens and light",
        )
    seen = None if since is None else since.images.get(camera)
    if since is None or seen is None or not np.array_equal(image, seen):
        return observation
    moved = np.abs(np.asarray(observation.joints)[:-1] - np.asarray(since.joints)[:-1]).max(initial=0.0)
    if moved > MOVED_RAD:
        raise CameraLostError(
            "CAMERA_FROZEN",
            f"camera {camera}: the same picture after the arm moved by {moved:.2f} rad; restart the camera",
        )
    return since


def _blank(image: ImageArray) -> bool:
    stride = max(1, round((image.size / SAMPLES) ** 0.5))
    darkest, brightest = np.percentile(image[::stride, ::stride], (0.5, 99.5))
    return bool(brightest - darkest < SPREAD)
