"""Pictures from ROS topics: colours in their order, padded rows cut, what is no colour picture told."""

from types import SimpleNamespace

import numpy as np
import pytest

from dvgwm.robots.ros_camera import IMAGE_MD5, open_camera, picture
from dvgwm.runtime.cameras.reader import CameraReader
from dvgwm.runtime.errors import CameraLostError, CameraMismatchError, ConfigError

IMAGE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def message(image, encoding="rgb8", padding=0):
    rows = np.pad(image.reshape(len(image), -1), ((0, 0), (0, padding)), constant_values=255)
    return SimpleNamespace(
        height=len(image), width=image.shape[1], step=rows.shape[1], encoding=encoding, data=rows.tobytes()
    )


@pytest.mark.parametrize("padding", [0, 5])
def test_pixels_are_those_of_the_message(padding):
    assert np.array_equal(picture(message(IMAGE, padding=padding)), IMAGE)
    assert np.array_equal(picture(message(IMAGE, "bgr8", padding)), IMAGE[..., ::-1])


@pytest.mark.parametrize("encoding", ["mono8", "16UC1", "rgba8", "yuv422"])
def test_another_encoding_is_told(encoding):
    with pytest.raises(CameraMismatchError, match=f"wanted images as rgb8 or bgr8, got '{encoding}'"):
        picture(message(IMAGE, encoding))


def test_a_message_that_is_too_short_is_told():
    short = message(IMAGE)
    short.data = short.data[:-1]
    with pytest.raises(CameraMismatchError, match="wanted 2 rows of 3 pixels, got 17 bytes"):
        picture(short)


@pytest.mark.parametrize("place", ["", "//", "//host", "/topic", "//:11311"])
def test_what_is_no_topic_is_told(place):
    with pytest.raises(ConfigError) as caught:
        open_camera(place)
    assert caught.value.log_code == "CAMERA_ADDRESS"


def test_the_checksum_is_the_messages(ros_installed):
    from dvgwm.robots import ros

    assert ros.library("sensor_msgs.msg").Image._md5sum == IMAGE_MD5


def test_a_topic_that_nobody_publishes_is_told(roscore):
    seen = CameraReader(f"ros://{roscore}/nobody/image_raw", 24, 36)
    try:
        with pytest.raises(CameraLostError, match="nothing came on /nobody/image_raw") as caught:
            seen.latest()
        assert caught.value.log_code == "CAMERA_TOPIC"
    finally:
        seen.close()
