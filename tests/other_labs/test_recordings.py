"""Recordings of other labs' cameras: every container, codec, clock, turn and mirror shows its own frames at their times."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")

from dvgwm.runtime.cameras.footage import open_footage
from dvgwm.runtime.errors import CameraLostError

from .numbered import HEIGHT, number_of, picture, set_display_matrix, write_clip

pytestmark = pytest.mark.video

CONTAINERS = {
    "mp4": ("mp4", "libx264", {"bf": "0"}),
    "mp4, frames out of order": ("mp4", "libx264", {"bf": "3", "g": "8"}),
    "mov": ("mov", "libx264", {"bf": "2"}),
    "mkv": ("matroska", "libx264", {"bf": "2"}),
    "ts, which begins at 1.4 s": ("mpegts", "libx264", {"bf": "2"}),
    "flv": ("flv", "libx264", {"bf": "2"}),
    "avi": ("avi", "libx264", {"bf": "0"}),
    "avi, frames out of order": ("avi", "libx264", {"bf": "3", "g": "8"}),
    "avi of mpeg4": ("avi", "mpeg4", {}),
    "avi of mpeg4, frames out of order": ("avi", "mpeg4", {"bf": "2"}),
    "avi of jpegs": ("avi", "mjpeg", {}),
    "h264": ("h264", "libx264", {"bf": "0"}),
    "h264, frames out of order": ("h264", "libx264", {"bf": "3", "g": "8"}),
    "h265": ("hevc", "libx265", {}),
    "mjpeg": ("mjpeg", "mjpeg", {}),
    "mp4 of jpegs": ("mp4", "mjpeg", {}),
    "webm": ("webm", "libvpx-vp9", {}),
    "mp4 of av1": ("mp4", "libsvtav1", {"preset": "12"}),
    "mkv of pictures apart": ("matroska", "ffv1", {}),
}
SUFFIX = {"matroska": "mkv", "mpegts": "ts", "hevc": "h265"}


@pytest.mark.parametrize("case", CONTAINERS)
def test_every_frame_comes_once_at_its_time(tmp_path, case):
    import av

    container, codec, options = CONTAINERS[case]
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    path = write_clip(
        tmp_path / f"clip.{SUFFIX.get(container, container)}", range(14), 10, container, codec, options=options
    )
    times, numbers = zip(*((time_s, number_of(image)) for time_s, image in open_footage(path).frames()), strict=True)
    assert numbers == tuple(range(14))
    period_s = 0.04 if container == "mjpeg" else 0.1  # it states no rate: FFmpeg's own
    assert np.allclose(times, np.arange(14) * period_s, atol=2e-3)
    assert [number_of(image) for image in open_footage(path).sampled(0.5 / period_s, 3, 2 * period_s)] == [2, 4, 6]


@pytest.mark.parametrize("rate", [5, 12.5, Fraction(24000, 1001), Fraction(30000, 1001), 60, 120])
def test_a_plan_s_frames_are_taken_at_their_times_whatever_the_rate(tmp_path, rate):
    path = write_clip(tmp_path / "clip.mp4", range(30), rate, options={"bf": "2"})
    sampled = open_footage(path).sampled(4.0, 30)
    assert [number_of(image) for image in sampled] == [int(k / 4 * rate + 1e-6) for k in range(len(sampled))]
    assert len(sampled) == int((29 / rate + 1e-6) * 4) + 1


def test_a_camera_of_no_constant_rate_is_read_by_its_clock(tmp_path):
    rng = np.random.default_rng(4)
    ticks = np.cumsum(rng.integers(20, 200, 25)) - 20
    path = write_clip(tmp_path / "clip.mkv", range(25), 30, "matroska", ticks=ticks, time_base=Fraction(1, 1000))
    times = (ticks - ticks[0]) / 1000
    sampled = open_footage(path).sampled(10.0, 15)
    wanted = [int(np.searchsorted(times, k / 10 + 1e-6, "right")) - 1 for k in range(15)]
    assert [number_of(image) for image in sampled] == wanted


MATRICES = {
    "as it is": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "half a turn": (-1, 0, 0, -1),
    "a quarter clockwise": (0, 1, -1, 0),
    "a quarter the other way": (0, -1, 1, 0),
    "along the falling diagonal": (0, 1, 1, 0),
    "along the rising diagonal": (0, -1, -1, 0),
}


def displayed(image, a, b, c, d):
    """Return ``image`` with every pixel moved on its own to where the matrix puts it: slow, and plain."""
    height, width = image.shape[:2]
    places = {(a * x + c * y, b * x + d * y): image[y, x] for y in range(height) for x in range(width)}
    left, top = (min(place[axis] for place in places) for axis in (0, 1))
    shown = np.zeros((width, height, 3) if a == 0 else image.shape, np.uint8)
    for (x, y), value in places.items():
        shown[y - top, x - left] = value
    return shown


@pytest.mark.parametrize("case", MATRICES)
def test_a_mirrored_or_turned_clip_is_seen_as_it_is_shown(tmp_path, case):
    path = write_clip(tmp_path / "clip.mp4", range(700, 703))
    set_display_matrix(path, *MATRICES[case])
    frame = open_footage(path).sampled(10, 1)[0]
    wanted = displayed(picture(700), *MATRICES[case])
    assert frame.shape == wanted.shape
    assert np.abs(frame.astype(int) - wanted).mean() < 6


def test_a_matrix_of_nothing_turns_nothing(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", range(3))
    set_display_matrix(path, 0, 0, 0, 0)
    assert number_of(open_footage(path).sampled(10, 1)[0]) == 0


@pytest.mark.parametrize(("aspect", "width"), [((2, 1), 192), ((16, 15), 102), ((1, 2), 48), ((100_000, 1), 96)])
def test_pixels_that_are_not_square_are_made_so(tmp_path, aspect, width):
    path = write_clip(tmp_path / "clip.mp4", range(3), pixel_aspect=aspect)
    frame = open_footage(path).sampled(10, 1)[0]
    assert frame.shape == (HEIGHT, width, 3)
    assert number_of(frame) == 0


COLOURS = ((200, 30, 40), (30, 180, 60), (40, 60, 210))


@pytest.mark.parametrize("space", ["ITU709", "ITU601"])
@pytest.mark.parametrize("colour_range", ["MPEG", "JPEG"])
def test_colours_are_those_that_the_file_states(tmp_path, space, colour_range):
    import av
    from av.video.reformatter import ColorRange, Colorspace

    wanted = np.repeat(np.array([COLOURS], np.uint8).repeat(32, 1), 64, 0)
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"crf": "8"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.colorspace = Colorspace[space]
        stream.codec_context.color_range = ColorRange[colour_range]
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(wanted, "rgb24")
            frame = frame.reformat(
                format="yuv420p", dst_colorspace=Colorspace[space], dst_color_range=ColorRange[colour_range]
            )
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    got = open_footage(path).sampled(10, 1)[0].astype(int)
    centres = [(32, 16), (32, 48), (32, 80)]
    assert max(np.abs(got[y, x] - wanted[y, x]).max() for y, x in centres) <= 4


def test_an_older_pyav_is_refused_because_its_colours_are_wrong(tmp_path, monkeypatch):
    import av

    path = write_clip(tmp_path / "clip.mp4", range(3))
    monkeypatch.setattr(av, "__version__", "15.1.0")
    with pytest.raises(CameraLostError, match=r"wanted PyAV 17 or newer, got 15\.1\.0.*pip install -U"):
        open_footage(path).sampled(10, 1)


@pytest.mark.parametrize(
    "name", ["cam:0.mp4", "2026-11-30T10:15:00.mp4", "file:x.mp4", "concat:a|b.mp4", "-v.mp4", "%03d.mp4"]
)
def test_a_name_is_a_name(tmp_path, monkeypatch, name):
    write_clip(tmp_path / "plain.mp4", range(3)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert number_of(open_footage(Path(name)).sampled(10, 1)[0]) == 0


def fifo(path):
    os.mkfifo(path)


def torn(path):
    write_clip(path, range(20))
    path.write_bytes(path.read_bytes()[:700])


def sound(path):
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())


BROKEN = {
    "a pipe": fifo,
    "a folder called so": lambda path: path.mkdir(),
    "half a file": torn,
    "sound alone": sound,
    "nothing": lambda path: path.write_bytes(b""),
    "a page of HTML": lambda path: path.write_text("<html>sign in</html>"),
    "a pointer of git's": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    ),
    "a list of other files": lambda path: path.write_text("ffconcat version 1.0\nfile /etc/hostname\n"),
    "a playlist": lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_recording_is_refused_in_one_line(tmp_path, case):
    path = tmp_path / "clip.mp4"
    BROKEN[case](path)
    with pytest.raises(CameraLostError) as caught:
        open_footage(path).sampled(10, 1)
    assert caught.value.line.startswith("E20 CAMERA_")
    assert "clip.mp4" in caught.value.line
