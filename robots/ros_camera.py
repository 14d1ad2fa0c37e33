"""A camera that is a topic of ROS 1, as realsense-ros and usb_cam make them: `ros://HOST:PORT/topic`."""

import threading
from typing import Any

import numpy as np

from dvgwm.runtime.cameras.source import Frame
from dvgwm.runtime.errors import CameraLostError, CameraMismatchError, ConfigError, RobotCommunicationError

from . import ros

IMAGE_MD5 = "060021388200f6f0f447d0fcd9c64743"
CHANNELS = {"rgb8": slice(None), "bgr8": slice(None, None, -1)}


class RosCamera:
    """An image topic; implements `dvgwm.runtime.cameras.source.Source`."""

    recorded = noisy = False  # what is simulated has no noise, and whether this is, nobody says

    def __init__(self, master: str, topic: str) -> None:
        self._came = threading.Condition()
        self._heard: Any = None
        ip, port = ros.master(master)
        try:
            rospy = ros.open_node(ip, port)
            self._sender = ros.first(rospy, topic, (IMAGE_MD5,))["callerid"]
            self._here = ros.is_here(ip, port, self._sender)
        except RobotCommunicationError as error:
            raise CameraLostError("CAMERA_TOPIC", f"{topic}: {error}") from error
        self._rospy = rospy
        image = ros.library("sensor_msgs.msg").Image
        rospy.Subscriber(topic, image, self._on_image, queue_size=1, buff_size=1 << 24, tcp_nodelay=True)

    def read(self, seconds: float) -> Frame | None:
        """Return the next picture; raises `CameraLostError` where another node publishes them than at first."""
        with self._came:
            if self._heard is None:
                self._came.wait(seconds)
            heard, self._heard = self._heard, None
        if heard is None:
            return None
        if (sender := ros.sender(heard)) != self._sender:
            raise CameraLostError(
                "CAMERA_SENDER",
                f"{sender} and {self._sender} publish the camera's topic; end all but the camera's driver",
            )
        return Frame(picture(heard), heard.header.stamp.to_sec(), self._here)

    def close(self) -> None:
        """Leave the master."""
        self._rospy.signal_shutdown("done")

    def _on_image(self, heard: Any) -> None:
        with self._came:
            self._heard = heard
            self._came.notify()


def picture(heard: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the pixels of a `sensor_msgs/Image`; raises `CameraMismatchError` where they are not 8-bit colour."""
    if heard.encoding not in CHANNELS:
        raise CameraMismatchError(
            "CAMERA_FORMAT",
            f"wanted images as {' or '.join(CHANNELS)}, got {heard.encoding!r}; set the driver's encoding",
        )
    if heard.step < 3 * heard.width or len(heard.data) < heard.step * heard.height:
        raise CameraMismatchError(
            "CAMERA_FRAME", f"wanted {heard.height} rows of {heard.width} pixels, got {len(heard.data)} bytes"
        )
    rows = np.frombuffer(heard.data, np.uint8)[: heard.step * heard.height].reshape(heard.height, heard.step)
    pixels = rows[:, : 3 * heard.width].reshape(heard.height, heard.width, 3)
    return np.ascontiguousarray(pixels[..., CHANNELS[heard.encoding]])


def open_camera(place: str) -> RosCamera:
    """Return the image topic at ``//HOST:PORT/topic``, as it stands behind ``ros:``."""
    host, slash, topic = place.removeprefix("//").partition("/")
    if not place.startswith("//") or not host or not topic:
        raise ConfigError("CAMERA_ADDRESS", f"wanted ros://HOST:PORT/topic, got ros:{place}")
    return RosCamera(host, slash + topic)
