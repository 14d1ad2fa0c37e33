"""RealSense cameras by their real library: a device made by software, and what it records of one."""

import sys
import threading
import time

import numpy as np
import pytest

from dvgwm.runtime.cameras import realsense
from dvgwm.runtime.cameras.reader import CameraReader
from dvgwm.runtime.cameras.realsense import RealSense
from dvgwm.runtime.errors import CameraLostError, ConfigError

WIDTH, HEIGHT = 640, 480


def test_an_l515_wants_an_old_library():
    realsense._check_l515("2.54.2.5684")
    realsense._check_l515("2.50.0.3785")
    for newer in ("2.55.1.6486", "2.59.1.11053", "3.0.0"):
        with pytest.raises(ConfigError, match=r"pip install pyrealsense2==2\.54\.2\.5684") as caught:
            realsense._check_l515(newer)
        assert caught.value.log_code == "CAMERA_L515"


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("libusb-1.0.so.0: cannot open shared object file", "apt-get install libusb-1.0-0"),
        ("No module named 'pyrealsense2'", r"pip install 'dvgwm\[realsense\]'"),
    ],
)
def test_what_its_library_lacks_is_explained(monkeypatch, said, remedy):
    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name == "pyrealsense2":
                raise ImportError(said)

    monkeypatch.delitem(sys.modules, "pyrealsense2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    with pytest.raises(ConfigError, match=remedy) as caught:
        realsense.library()
    assert caught.value.log_code == "CAMERA_REALSENSE"


@pytest.fixture
def rs():
    try:
        return realsense.library()
    except ConfigError as error:
        pytest.skip(str(error))


def test_a_camera_that_is_not_plugged_in_is_told(rs):
    with pytest.raises(CameraLostError, match="wanted D435 f12345") as caught:
        RealSense("f12345", "D435")
    assert caught.value.log_code == "CAMERA_MISSING"


class Software:
    """A colour camera that the library takes for a real one, and what pushes pictures into it."""

    def __init__(self, rs):
        self.rs, self.device, self.ended = rs, rs.software_device(), threading.Event()
        self.sensor = self.device.add_sensor("Color")
        stream = rs.video_stream()
        stream.type, stream.index, stream.uid, stream.fmt, stream.bpp = rs.stream.color, 0, 1, rs.format.rgb8, 3
        stream.width, stream.height, stream.fps = WIDTH, HEIGHT, realsense.FPS
        lens = rs.intrinsics()
        lens.width, lens.height, lens.ppx, lens.ppy, lens.fx, lens.fy = WIDTH, HEIGHT, WIDTH / 2, HEIGHT / 2, 600, 600
        lens.model, lens.coeffs = rs.distortion.brown_conrady, [0] * 5
        stream.intrinsics = lens
        self.profile = self.sensor.add_video_stream(stream)
        self.context = rs.context()
        self.device.add_to(self.context)
        self.images = []

    def push(self, number):
        frame, image = self.rs.software_video_frame(), np.full((HEIGHT, WIDTH, 3), number % 200, np.uint8)
        image[..., 1] = 50  # so that red and blue cannot be swapped unseen
        image[..., 2] = 100
        self.images = [*self.images[-8:], image]  # kept alive until it is consumed
        frame.pixels, frame.bpp, frame.stride = image, 3, WIDTH * 3
        frame.timestamp, frame.domain = number * 1000.0 / realsense.FPS, self.rs.timestamp_domain.hardware_clock
        frame.frame_number, frame.profile = number, self.profile.as_video_stream_profile()
        self.sensor.on_video_frame(frame)

    def start(self):
        def run():
            number = 0
            while not self.ended.wait(1 / realsense.FPS):
                number += 1
                self.push(number)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def stop(self):
        self.ended.set()
        self.thread.join()


def test_the_real_pipeline_runs_on_a_device_of_software(rs):
    if tuple(map(int, realsense.version("pyrealsense2").split(".")[:3])) > realsense.LAST_L515:
        pytest.skip("newer libraries open no pipeline on a device of software")
    made = Software(rs)
    camera = RealSense(context=made.context)
    made.start()
    try:
        frames = [frame for frame in (camera.read(1.0) for _ in range(20)) if frame is not None]
        assert len(frames) > 10
        assert all(frame.image.shape == (HEIGHT, WIDTH, 3) for frame in frames)
        assert frames[-1].image[0, 0].tolist()[1:] == [50, 100], "RGB"
        stamps = [frame.stamp_s for frame in frames]
        assert stamps == sorted(set(stamps))
        assert np.diff(stamps).min() == pytest.approx(1 / realsense.FPS, rel=0.05)
        made.stop()
        while camera.read(0.05) is not None:
            pass
        begun_s = time.monotonic()
        assert camera.read(0.2) is None, "a reader never blocks longer than its bound"
        assert time.monotonic() - begun_s < 0.5
    finally:
        made.ended.set()
        camera.close()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """What the library's own recorder makes of a camera."""
    try:
        rs = realsense.library()
    except ConfigError as error:
        pytest.skip(str(error))
    newer = tuple(map(int, realsense.version("pyrealsense2").split(".")[:3])) > realsense.LAST_L515
    path = tmp_path_factory.mktemp("realsense") / ("camera.db3" if newer else "camera.bag")
    made, seen = Software(rs), rs.frame_queue(50)
    recorder = rs.recorder(str(path), made.device)
    sensor = recorder.query_sensors()[0]
    sensor.open(sensor.get_stream_profiles()[0])
    sensor.start(seen)
    for number in range(1, 31):
        made.push(number)
        time.sleep(0.01)
    sensor.stop()
    sensor.close()
    del sensor, recorder  # which writes the rest
    return path


def test_a_recording_is_read_by_the_real_pipeline(recording):
    camera = RealSense(str(recording))
    try:
        frame = next(frame for frame in (camera.read(1.0) for _ in range(10)) if frame is not None)
        assert frame.image.shape == (HEIGHT, WIDTH, 3)
        assert frame.image[0, 0].tolist()[1:] == [50, 100], "RGB"
        assert camera.recorded
        assert not camera.noisy
    finally:
        camera.close()


def test_a_recording_is_a_camera_for_a_dry_run(recording):
    seen = CameraReader(f"realsense:{recording}", 128, 192)
    try:
        assert seen.latest().image.shape == (128, 192, 3)
        assert seen.recorded
    finally:
        seen.close()
