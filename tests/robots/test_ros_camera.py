"""Pictures from ROS topics: colours in their order, padded rows cut, what is no colour picture told."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from dvgwm.robots.ros_camera import IMAGE_MD5, open_camera, picture
from dvgwm.runtime.cameras import reader
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


PICTURES = """
import sys, time
import numpy as np
from dvgwm.robots import ros
late_s, node = float(sys.argv[2]), sys.argv[3]
rospy = ros.open_node(*ros.master(sys.argv[1]))
image = ros.library("sensor_msgs.msg").Image
topic = rospy.Publisher("/late/image_raw", image, queue_size=1, tcp_nodelay=True)
print("ready", flush=True)
while True:
    pixels = np.random.default_rng().integers(0, 255, (48, 72, 3), np.uint8)
    message = image(height=48, width=72, encoding="rgb8", step=216, data=pixels.tobytes())
    message.header.stamp = rospy.Time.from_sec(time.time() - late_s)
    topic.publish(message)
    time.sleep(1 / 30)
"""


@pytest.fixture
def publisher(roscore, tmp_path):
    """What starts a node that publishes pictures with stamps of so many seconds ago."""
    made = []

    def start(late_s):
        own = {"ROS_HOME": str(tmp_path), "ROS_IP": "127.0.0.1"}
        words = [sys.executable, "-c", PICTURES, roscore, str(late_s), str(len(made))]
        made.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | own))
        assert made[-1].stdout.readline() == "ready\n"

    yield start
    for each in made:
        each.kill()
        each.wait()
        each.stdout.close()


@pytest.mark.few(1)
@pytest.mark.parametrize("late_s", [0.09, 3.0, 0.0, 86400.0])
def test_pictures_that_are_late_by_their_own_stamps_are_old(publisher, roscore, monkeypatch, late_s):
    """A node of this machine, whose clock is ours; pictures of a day ago are a recording that is played."""
    monkeypatch.setattr(reader, "LOST_S", 0.5)
    monkeypatch.setattr(reader, "OPEN_S", 6.0)
    publisher(late_s)
    seen = CameraReader(f"ros://{roscore}/late/image_raw", 24, 36)
    try:
        if late_s < 0.1:
            shown = seen.latest()
            assert time.monotonic() - shown.at_s == pytest.approx(late_s, abs=0.06)
            return
        with pytest.raises(CameraLostError) as caught:
            seen.latest()
        assert caught.value.log_code == "CAMERA_STALE"
        assert float(str(caught.value).split("got one of ")[1].split()[0]) == pytest.approx(late_s, abs=0.3)
    finally:
        seen.close()


def test_two_nodes_that_publish_its_pictures_are_told(publisher, roscore, watch):
    publisher(0.0)
    seen = CameraReader(f"ros://{roscore}/late/image_raw", 24, 36)
    try:
        seen.latest()
        publisher(0.0)
        with pytest.raises(CameraLostError, match="publish the camera's topic") as caught:
            watch(seen, 20.0)
        assert caught.value.log_code == "CAMERA_SENDER"
    finally:
        seen.close()
