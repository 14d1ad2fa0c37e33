"""Intel RealSense cameras through pyrealsense2: an L515, a D435, or a recording of one."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CameraLostError, CameraMismatchError, ConfigError
from .source import Frame

WIDTH_PX, HEIGHT_PX, FPS = 640, 480, 30
LAST_L515 = (2, 54, 2)
"""Later libraries do not see an L515, and do not say so."""


class RealSense:
    """The colour stream of one camera; implements `source.Source`.

    ``place`` is a serial number, empty for the only camera there is, or the path of a recording (.bag, .db3). ``context`` is
    the library's own, given where the device is made by software.
    """

    def __init__(self, place: str = "", product: str = "", context: Any = None) -> None:
        self._rs = library()
        if product == "L515":
            _check_l515(version("pyrealsense2"))
        self.recorded = bool(place) and Path(place).is_file()
        self.noisy = not self.recorded
        config = self._rs.config()
        if self.recorded:
            config.enable_device_from_file(place, repeat_playback=True)
        elif context is None:
            config.enable_device(_serial(self._rs, place, product))
        if not self.recorded:
            config.enable_stream(self._rs.stream.color, WIDTH_PX, HEIGHT_PX, self._rs.format.rgb8, FPS)
        self._pipeline: Any = self._rs.pipeline() if context is None else self._rs.pipeline(context)
        try:
            self._pipeline.start(config)
        except RuntimeError as error:  # the library's own, for whatever happens
            raise CameraLostError("CAMERA_OPEN", f"the RealSense camera does not start: {error}") from error

    def read(self, seconds: float) -> Frame | None:
        """Return the next frame."""
        came, frames = self._pipeline.try_wait_for_frames(max(1, round(1000 * seconds)))
        colour = frames.get_color_frame() if came else None
        if not colour:
            return None
        kind = colour.get_profile().format()
        pixels = np.asanyarray(colour.get_data())
        if kind not in (self._rs.format.rgb8, self._rs.format.bgr8):
            raise CameraMismatchError("CAMERA_FORMAT", f"wanted colour as rgb8 or bgr8, got {kind}; record it as rgb8")
        rgb = pixels[..., ::-1] if kind == self._rs.format.bgr8 else pixels
        stamp_s = 0.0 if self.recorded else colour.get_timestamp() / 1000.0  # a recording begins again
        domains = self._rs.timestamp_domain
        here = colour.get_frame_timestamp_domain() in (domains.system_time, domains.global_time)
        return Frame(rgb.copy(), stamp_s, here)  # the library's own memory is used again

    def close(self) -> None:
        """Stop the stream."""
        self._pipeline.stop()


def library() -> Any:
    """Return pyrealsense2; raises `ConfigError` where it, or what it wants of the system, is not installed."""
    try:
        import pyrealsense2
    except ImportError as error:
        remedy = "pip install 'dvgwm[realsense]'"
        if "libusb" in str(error):
            remedy = "its own library is: apt-get install libusb-1.0-0"
        raise ConfigError("CAMERA_REALSENSE", f"pyrealsense2 cannot be imported ({error}): {remedy}") from error
    return pyrealsense2


def open_realsense(place: str) -> RealSense:
    """Return the RealSense camera with that serial number, any where it is empty, or the recording at that path."""
    return RealSense(place)


def open_l515(place: str) -> RealSense:
    """Return the L515 with that serial number; raises `ConfigError` for a library that has no L515 any more."""
    return RealSense(place, "L515")


def open_d435(place: str) -> RealSense:
    """Return the D435, or D435i, with that serial number."""
    return RealSense(place, "D435")


def _check_l515(installed: str) -> None:
    if tuple(int(part) for part in installed.split(".")[:3]) > LAST_L515:
        raise ConfigError(
            "CAMERA_L515",
            f"an L515 wants pyrealsense2 2.54.2.5684 or older, got {installed}, which does not see it: "
            "pip install pyrealsense2==2.54.2.5684 (Python 3.11)",
        )


def _serial(rs: Any, serial: str, product: str) -> str:
    """Return the serial number of the one camera that is meant; raises `CameraLostError` where there is none, or several."""
    info = rs.camera_info
    there = [(device.get_info(info.serial_number), device.get_info(info.name)) for device in rs.context().devices]
    fit = [number for number, name in there if product in name and serial in ("", number)]
    if len(fit) == 1:
        found: str = fit[0]
        return found
    seen = ", ".join(f"{name} {number}" for number, name in there) or "none"
    wanted = " ".join(filter(None, (product or "a RealSense", serial)))
    raise CameraLostError(
        "CAMERA_MISSING", f"wanted {wanted}, got {seen}; look at the USB 3 cable, or name one by its serial number"
    )
