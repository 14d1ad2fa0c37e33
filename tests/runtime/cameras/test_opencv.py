"""Cameras by OpenCV: the real library, on a file in a device's place, for no device is here."""

import sys
import time

import numpy as np
import pytest

from dvgwm.runtime.cameras.opencv import OpenCv
from dvgwm.runtime.cameras.reader import CameraReader
from dvgwm.runtime.errors import CameraLostError, ConfigError


def test_without_opencv_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"pip install 'dvgwm\[opencv\]'") as caught:
        OpenCv("0")
    assert caught.value.log_code == "CAMERA_OPENCV"


@pytest.fixture
def clip(tmp_path):
    """A film of a red field that becomes brighter."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (72, 48))
    for number in range(20):
        writer.write(np.full((48, 72, 3), (0, 0, 50 + 10 * number), np.uint8))
    writer.release()
    return path


def test_its_frames_are_rgb_and_come_when_they_are_due(clip):
    camera, begun_s = OpenCv(str(clip)), time.monotonic()
    frames = [camera.read(1.0).image for _ in range(10)]
    assert time.monotonic() - begun_s > 0.4
    assert camera.recorded
    red, green, blue = frames[-1].reshape(-1, 3).mean(0)
    assert red > 100 > 30 > max(green, blue)
    with pytest.raises(CameraLostError, match="no more frames"):
        [camera.read(1.0) for _ in range(20)]
    camera.close()


def test_no_device_is_told(clip):
    with pytest.raises(CameraLostError, match=r"cannot open /dev/video7; look at `ls /dev/video\*`") as caught:
        OpenCv("7")
    assert caught.value.log_code == "CAMERA_OPEN"


def test_a_reader_fits_them(clip):
    seen = CameraReader(f"opencv:{clip}", 24, 36)
    try:
        assert seen.latest().image.shape == (24, 36, 3)
    finally:
        seen.close()
