"""Cameras in processes of their own: what they show is the newest, and whatever becomes of them is told in time."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dvgwm.runtime import child
from dvgwm.runtime.cameras import reader as reading
from dvgwm.runtime.cameras.reader import CameraReader
from dvgwm.runtime.cameras.slots import Slots, Tally
from dvgwm.runtime.cameras.source import Frame, kinds, split
from dvgwm.runtime.cameras.watch import FROZEN_FRAMES, Watch
from dvgwm.runtime.errors import CameraLostError, CameraMismatchError, ConfigError

SIZE = 24, 36
CAMERA = '''
import itertools, os, signal, time
import numpy as np
from dvgwm.runtime.cameras.source import Frame
from dvgwm.runtime.errors import CameraLostError

class Camera:
    """Shows its number in grey, thirty times a second, until something is wrong with it."""
    recorded, noisy = False, True

    def __init__(self, place):
        self.fault, _, after = place.partition("@")
        self.after, self.numbers = int(after or 10), itertools.count(1)
        if self.fault == "absent":
            raise CameraLostError("CAMERA_MISSING", "wanted a camera, got none")

    def read(self, seconds):
        time.sleep(1 / 30)
        number = next(self.numbers)
        image = np.full((48, 72, 3), number % 200, np.uint8)
        image[:2, :2] = np.random.default_rng(number).integers(0, 255, (2, 2, 3))
        stamp_s = 1000.0 + (time.monotonic() if self.fault in ("set back", "begins anew") else number / 30)
        if number < self.after:
            return Frame(image, stamp_s)
        if self.fault == "talks":
            os.write(number % 2 + 1, b"error while decoding MB 3 0, bytestream -7\\n" * 250)
            stamp_s = time.time()
        if self.fault == "silent":
            time.sleep(seconds)
            return None
        if self.fault == "hangs":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
        if self.fault == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.fault == "raises":
            raise RuntimeError("USB overcurrent")
        if self.fault == "smaller":
            return Frame(image[:24], stamp_s)
        if self.fault == "grey":
            return Frame(image[..., 0], stamp_s)
        if self.fault == "floats":
            return Frame(image.astype(np.float32), stamp_s)
        if self.fault == "frozen":
            return Frame(np.full((48, 72, 3), 7, np.uint8), stamp_s)
        if self.fault in ("loops", "loops, stamped anew"):
            number = self.after - 30 + number % 30
            image = np.full((48, 72, 3), number % 200, np.uint8)
            image[:2, :2] = np.random.default_rng(number).integers(0, 255, (2, 2, 3))
            return Frame(image, 1000.0 + number / 30 if self.fault == "loops" else time.time(), True)
        if self.fault == "begins anew":
            return Frame(image, time.monotonic() - 2.0 * ((number - self.after) // 30))
        if self.fault == "set back":
            return Frame(image, 1000.0 + time.monotonic() - 0.5)
        if self.fault == "late":
            return Frame(image, time.time() - 3.0, True)
        if self.fault == "repeats":
            return Frame(image, 1000.0 + self.after / 30)
        if self.fault == "goes back":
            return Frame(image, 1000.0 + (self.after - number % 5) / 30)
        return Frame(image, stamp_s)

    def close(self):
        pass
'''


@pytest.fixture
def camera(install):
    """What opens a camera of the kind `faulty`, which somebody else's package adds."""
    install("faulty_camera", CAMERA, {"cameras": "faulty = faulty_camera:Camera"})
    opened = []

    def start(fault="well"):
        opened.append(CameraReader(f"faulty:{fault}", *SIZE))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_a_camera_whose_library_talks_without_end_is_seen(camera, watch):
    """Ten kilobytes a frame, a hundred times what a pipe holds; the end is kept."""
    seen = camera("talks@2")
    seen.latest()
    watch(seen, 4.0)
    assert seen.restarts == 0
    assert seen.tally().written > 60
    assert "bytestream -7" in seen._child.said()
    assert len(seen._child.said()) <= child.MOST_BYTES


def test_the_newest_frame_is_there_at_once_and_is_fitted(camera):
    seen = camera()
    first = seen.latest()
    assert first.image.shape == (*SIZE, 3)
    time.sleep(0.5)
    begun_s = time.monotonic()
    later = seen.latest()
    assert time.monotonic() - begun_s < 0.05
    assert time.monotonic() - later.at_s < reading.FRESH_S
    assert later.number > first.number + 5
    assert later.image[-1, -1, 0] == later.number % 200, "the newest, whole"
    assert seen.frame_s() >= later.at_s
    assert not seen.recorded


@pytest.mark.few(1)
@pytest.mark.parametrize("fault", ["late@1", "late@10"])
def test_a_camera_that_is_late_by_this_machines_clock_is_old(camera, fault, monkeypatch):
    """By a constant delay, too, which no other message tells of."""
    monkeypatch.setattr(reading, "LOST_S", 0.5)
    seen = camera(fault)
    time.sleep(1.5)
    with pytest.raises(CameraLostError, match="wanted a frame at most") as caught:
        seen.latest()
    assert caught.value.log_code == "CAMERA_STALE"
    assert float(str(caught.value).split("got one of ")[1].split()[0]) > 2.9


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("fault", "log_code"),
    [("loops@60", "CAMERA_LOOP"), ("loops, stamped anew@60", "CAMERA_LOOP"), ("begins anew@30", "CAMERA_CLOCK")],
)
def test_a_camera_that_shows_the_past_again_is_told_and_not_started_anew(camera, fault, log_code, watch):
    seen = camera(fault)
    with pytest.raises(CameraMismatchError) as caught:
        watch(seen, 8.0)
    assert caught.value.log_code == log_code
    assert seen.restarts == 0


def test_a_camera_whose_clock_is_set_back_goes_on(camera, watch):
    seen = camera("set back@20")
    watch(seen, 2.0)
    assert seen.restarts == 0
    assert "its clock was set back by 0.50 s" in seen._child.said()


@pytest.mark.few(2)
@pytest.mark.parametrize("fault", ["silent", "hangs", "frozen", "repeats", "goes back"])
def test_a_camera_that_shows_nothing_new_is_lost_in_time(camera, fault, monkeypatch):
    monkeypatch.setattr(reading, "LOST_S", 1.0)
    seen = camera(fault)
    seen.latest()
    time.sleep(0.8)
    begun_s = time.monotonic()
    with pytest.raises(CameraLostError) as caught:
        seen.latest()
    assert (caught.value.exit_code, caught.value.log_code) == (20, "CAMERA_STALE")
    assert time.monotonic() - begun_s < 2.0
    tally = seen.tally()
    if fault == "frozen":
        assert tally.frozen > 10
        assert "frozen ones were left out" in str(caught.value)
    if fault in ("repeats", "goes back"):
        assert tally.old > 10


@pytest.mark.few(1)
@pytest.mark.parametrize("fault", ["hangs", "dies", "raises"])
def test_a_camera_that_ends_or_hangs_is_started_anew(camera, fault, monkeypatch):
    """F02: it hangs and ignores signals, crashes, or its library raises."""
    monkeypatch.setattr(reading, "HUNG_S", 1.0)  # a process takes a while to start, beside others
    monkeypatch.setattr(reading, "LOST_S", 8.0)
    seen = camera(f"{fault}@20")
    before = seen.latest().number
    end_s = time.monotonic() + 20
    while not seen.restarts and time.monotonic() < end_s:
        time.sleep(0.02)
        shown = seen.latest()
    assert seen.restarts == 1
    assert shown.number > before
    assert time.monotonic() - shown.at_s < reading.FRESH_S


def test_a_camera_that_ends_again_and_again_is_lost(camera, monkeypatch, watch):
    monkeypatch.setattr(reading, "LOST_S", 20.0)
    seen = camera("raises@3")
    with pytest.raises(CameraLostError, match="RuntimeError: USB overcurrent") as caught:
        watch(seen, 40.0)
    assert seen.restarts == reading.RESTARTS
    assert caught.value.log_code == "CAMERA_DRIVER"


@pytest.mark.parametrize("fault", ["smaller", "grey", "floats"])
def test_a_frame_of_another_shape_is_a_mismatch(camera, fault, watch):
    seen = camera(f"{fault}@5")
    with pytest.raises(CameraMismatchError, match=r"wanted uint8 \[48, 72, 3\] of the camera") as caught:
        watch(seen, 10.0)
    assert caught.value.exit_code == 21
    assert not seen.restarts, "another start would not help"


def test_a_camera_that_is_not_there_is_told_as_it_was_said(camera):
    with pytest.raises(CameraLostError, match="wanted a camera, got none") as caught:
        camera("absent").latest()
    assert caught.value.log_code == "CAMERA_MISSING"


def test_a_closed_camera_leaves_no_process(camera):
    for fault in ("well", "hangs@2"):
        seen = camera(fault)
        seen.latest()
        time.sleep(0.2)
        process = seen._child.process.pid
        begun_s = time.monotonic()
        seen.close()
        assert time.monotonic() - begun_s < 2.0
        assert not Path(f"/proc/{process}").exists()
        seen._slots = Slots(*SIZE)  # closed again with the fixture


def test_a_camera_outlives_no_reader(camera, tmp_path):
    """Whoever reads may be killed: the camera's process notices, and ends."""
    code = (
        "import sys, time; from dvgwm.runtime.cameras.reader import CameraReader\n"
        "seen = CameraReader('faulty:well', 24, 36); seen.latest(); print(seen._child.process.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([os.sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    end_s = time.monotonic() + 5
    while (
        Path(f"/proc/{child}/cmdline").exists()
        and Path(f"/proc/{child}/cmdline").read_bytes()
        and time.monotonic() < end_s
    ):
        time.sleep(0.05)
    assert time.monotonic() < end_s


def test_kinds_are_found_and_what_is_none_is_told(tmp_path):
    assert {"file", "opencv", "realsense", "l515", "d435", "ros"} <= set(kinds())
    assert split("l515") == ("l515", "")
    assert split("opencv:/dev/video2") == ("opencv", "/dev/video2")
    assert split("ros://robot:11311/camera/image_raw") == ("ros", "//robot:11311/camera/image_raw")
    (tmp_path / "clip.png").touch()
    assert split(str(tmp_path / "clip.png")) == ("file", str(tmp_path / "clip.png"))
    with pytest.raises(ConfigError, match="wanted a path, or one of d435, file, l515"):
        split("kinect")


def test_a_recording_plays_in_real_time_and_again(tmp_path):
    for number in range(5):
        Image.fromarray(np.full((48, 72, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    seen = CameraReader(str(tmp_path), *SIZE)
    try:
        first = seen.latest()
        shown = {first.number: int(first.image[0, 0, 0])}
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < 1.3:
            frame = seen.latest()
            shown[frame.number] = int(frame.image[0, 0, 0])
            time.sleep(0.01)
        assert seen.recorded
        values = [shown[number] for number in sorted(shown)]
        assert 10 <= len(values) <= 15
        assert values[:7] == [0, 40, 80, 120, 160, 0, 40]
    finally:
        seen.close()


def test_two_processes_never_tear_a_frame():
    """One writes as fast as it can, the other reads: every frame that is read is one that was written."""
    slots = Slots(64, 64)
    child = os.fork()
    if child == 0:
        for number in range(1, 100_000):
            slots.write(np.full((64, 64, 3), number % 251, np.uint8), float(number), Tally(written=number))
        os._exit(0)
    try:
        seen, end_s = 0, time.monotonic() + 2
        while time.monotonic() < end_s:
            shown = slots.newest()
            if shown is not None:
                seen += 1
                assert (shown.image == shown.number % 251).all()
                assert shown.at_s == shown.number
        assert seen > 100
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        slots.close()


def test_a_frame_that_was_changed_is_not_read():
    """The control to the above: without its checksum a torn frame would pass."""
    slots = Slots(8, 8)
    slots.write(np.full((8, 8, 3), 9, np.uint8), 1.0, Tally(written=1))
    assert slots.newest() is not None
    start = slots._start(1)
    slots._memory[start + 100] ^= 1
    assert slots.newest() is None
    slots.close()


def frame(number, stamp_s=0.0):
    return Frame(np.full((4, 4, 3), number, np.uint8), stamp_s)


@pytest.mark.parametrize("length", [2, 5, 60, 400])
def test_frames_that_come_again_in_a_row_are_no_present(length):
    rng, watch = np.random.default_rng(0), Watch(True, Tally())
    frames = [Frame(rng.integers(0, 255, (24, 36, 3), np.uint8)) for _ in range(length)]
    for index, each in enumerate(frames):
        assert watch.taken_s(each, index / 30, 0.0) is not None
    again = [Frame(frames[index % length].image) for index in range(FROZEN_FRAMES)]
    for index, each in enumerate(again[:-1]):
        watch.taken_s(each, (length + index) / 30, 0.0)
    with pytest.raises(CameraMismatchError, match="shows frames of earlier again") as caught:
        watch.taken_s(again[-1], (length + FROZEN_FRAMES) / 30, 0.0)
    assert caught.value.log_code == "CAMERA_LOOP"


def test_a_frame_that_comes_again_now_and_then_is_no_fault():
    rng, watch = np.random.default_rng(0), Watch(True, Tally())
    for index in range(300):
        image = rng.integers(0, 255, (24, 36, 3), np.uint8) if index % 5 else np.full((24, 36, 3), 9, np.uint8)
        assert watch.taken_s(Frame(image), index / 30, 0.0) is not None


def test_a_noisy_camera_that_repeats_itself_is_frozen_and_may_thaw():
    watch = Watch(True, Tally())
    assert watch.taken_s(frame(1), 0.0, 0.0) == 0.0
    told = [watch.taken_s(frame(1), 0.1 * k, 0.0) for k in range(1, 9)]
    assert [at_s is not None for at_s in told] == [True] * (FROZEN_FRAMES - 1) + [False] * (9 - FROZEN_FRAMES)
    assert watch.taken_s(frame(2), 1.0, 0.0) == 1.0
    assert watch.tally.frozen == 9 - FROZEN_FRAMES
    still = Watch(False, Tally())
    assert all(still.taken_s(frame(1), 0.1 * k, 0.0) is not None for k in range(20)), (
        "what has no noise may stand still"
    )
