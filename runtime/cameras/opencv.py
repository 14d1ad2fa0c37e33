"""Cameras that OpenCV opens: V4L2 devices by number or path, streams by their address."""

import stat
import time
from pathlib import Path
from typing import Any

from ..errors import CameraLostError, ConfigError
from .source import Frame

REMEDY = "look at `ls /dev/video*`, and whether this user is in the group video"


class OpenCv:
    """What OpenCV opened; implements `source.Source`. A file is a recording, and is played in real time."""

    def __init__(self, place: str) -> None:
        try:
            import cv2
        except ImportError as error:
            raise ConfigError(
                "CAMERA_OPENCV",
                f"this camera wants OpenCV, which is not installed ({error}): pip install 'dvgwm[opencv]'",
            ) from error
        device = f"/dev/video{place}" if place.isdigit() or not place else place
        self.recorded = Path(device).is_file()
        self.noisy = not self.recorded
        self._cv2: Any = cv2
        v4l2 = Path(device).exists() and stat.S_ISCHR(Path(device).stat().st_mode)
        self._capture: Any = cv2.VideoCapture(device, cv2.CAP_V4L2 if v4l2 else cv2.CAP_ANY)
        if not self._capture.isOpened():
            raise CameraLostError("CAMERA_OPEN", f"OpenCV cannot open {device}; {REMEDY}")
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame is wanted, not the oldest of four
        self._period_s = 1.0 / (self._capture.get(cv2.CAP_PROP_FPS) or 30.0)
        self._due_s = time.monotonic()

    def read(self, seconds: float) -> Frame | None:
        """Return the next frame; OpenCV waits for it as long as its driver does."""
        if self.recorded:
            self._due_s += self._period_s
            time.sleep(max(0.0, self._due_s - time.monotonic()))
        came, pixels = self._capture.read()
        if not came:
            raise CameraLostError("CAMERA_ENDED", f"the camera gives no more frames; {REMEDY}")
        return Frame(self._cv2.cvtColor(pixels, self._cv2.COLOR_BGR2RGB))

    def close(self) -> None:
        """Release the device."""
        self._capture.release()


def open_opencv(place: str) -> OpenCv:
    """Return the camera of that number, path or address; raises `ConfigError` without OpenCV, `CameraLostError`."""
    return OpenCv(place)
