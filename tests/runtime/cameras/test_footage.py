"""Images and videos come upright, whole-ranged and of one size."""

import struct

import numpy as np
import pytest
from PIL import Image

from dvgwm.runtime.cameras import image
from dvgwm.runtime.cameras.footage import open_footage
from dvgwm.runtime.display.video import write_video
from dvgwm.runtime.errors import CameraLostError, CameraMismatchError

QUARTER_TURNS = {0: (1, 0, 0, 1), -1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 1: (0, -1, 1, 0)}
"""Upper left of a display matrix, by counter-clockwise quarter turns (ISO/IEC 14496-12, track header)."""


def corner():
    """A grey frame with one bright corner, top left."""
    image = np.full((32, 64, 3), 40, np.uint8)
    image[:16, :32] = 220
    return image


def turn(path, turns):
    """Write the turn into the track header of a version 0 mp4, as a phone does."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16
    a, b, c, d = (value << 16 for value in QUARTER_TURNS[turns])
    struct.pack_into(">9i", data, matrix, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.video
@pytest.mark.parametrize("turns", QUARTER_TURNS)
def test_a_video_recorded_sideways_comes_upright(tmp_path, turns):
    pytest.importorskip("av", reason="PyAV is not installed")
    path = write_video(tmp_path / "clip", np.stack([corner()] * 3), 10)
    turn(path, turns)
    frame = open_footage(path).sampled(10, 1)[0]
    wanted = np.rot90(corner(), turns)
    assert frame.shape == wanted.shape
    assert np.abs(frame.astype(int) - wanted).mean() < 5


def test_an_image_taken_sideways_comes_upright(tmp_path):
    image = Image.fromarray(corner())
    exif = image.getexif()
    exif[0x112] = 6  # "the 0th row is the right side": turn it clockwise to see it
    image.save(tmp_path / "a.png", exif=exif)
    frame = open_footage(tmp_path / "a.png").sampled(10, 1)[0]
    assert np.array_equal(frame, np.rot90(corner(), -1))


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)).save(tmp_path / "a.png")
    frame = open_footage(tmp_path / "a.png").sampled(10, 1)[0]
    assert np.array_equal(frame, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2))


def test_frames_of_several_sizes_are_refused(tmp_path):
    for name, size in (("1.png", (8, 6)), ("2.png", (10, 6))):
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(CameraMismatchError, match="8 x 6, 10 x 6") as caught:
        open_footage(tmp_path).sampled(10, 2)
    assert (caught.value.exit_code, caught.value.log_code) == (21, "CAMERA_FRAME")


def test_hidden_files_of_a_folder_are_left_alone(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "1.png")
    (tmp_path / "._1.png").write_bytes(b"a note of the operating system's")
    assert len(list(open_footage(tmp_path).frames())) == 1


@pytest.mark.video
def test_a_large_video_is_refused_by_its_header_before_a_frame_is_decoded(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="PyAV is not installed")
    path = write_video(tmp_path / "clip", np.stack([corner()] * 3), 10)
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    end = begin - 8 + int.from_bytes(data[begin - 8 : begin - 4], "big")
    data[begin:end] = bytes(end - begin)  # nothing that could be decoded
    path.write_bytes(data)
    with pytest.raises(CameraLostError) as caught:
        open_footage(path).sampled(10, 1)
    assert caught.value.log_code == "CAMERA_UNREADABLE"
    monkeypatch.setattr(image, "LARGEST_PX", 64 * 32 - 1)
    with pytest.raises(CameraLostError) as caught:
        open_footage(path).sampled(10, 1)
    assert caught.value.log_code == "CAMERA_LARGE"
