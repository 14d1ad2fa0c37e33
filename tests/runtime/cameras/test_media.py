"""Recordings in, videos out."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dvgwm.runtime.cameras.footage import fit_note, open_footage
from dvgwm.runtime.cameras.image import fit
from dvgwm.runtime.display.video import contact_sheet, encode_gif, side_by_side, write_video
from dvgwm.runtime.errors import CameraLostError, RecordingError

CLIPS = Path(__file__).parents[4] / "shared" / "data" / "video"


def ramp(count, height=32, width=48):
    """Frame k is of grey level 8 k."""
    return np.stack([np.full((height, width, 3), 8 * k, np.uint8) for k in range(count)])


def level(frame):
    return round(float(frame.mean()) / 8)


@pytest.mark.video
@pytest.mark.parametrize(("fps", "size"), [(10, (32, 48)), (30, (33, 47)), (25, (180, 320))])
def test_a_video_comes_back_with_its_frames_at_their_times(tmp_path, fps, size):
    pytest.importorskip("av", reason="PyAV is not installed")
    path = write_video(tmp_path / "clip", ramp(30, *size), fps)
    assert path.suffix == ".mp4"
    footage = open_footage(path)
    frames = list(footage.frames())
    assert [level(image) for _, image in frames] == list(range(30))
    assert all(b - a == pytest.approx(1 / fps, abs=2e-3) for (a, _), (b, _) in pairwise(frames))
    assert [level(image) for image in footage.sampled(5.0, 4)] == [round(fps / 5 * k) for k in range(4)]
    later = footage.sampled(5.0, 100, 0.4)
    assert level(later[0]) == round(0.4 * fps)
    assert level(later[-1]) >= 30 - fps / 5


def test_without_pyav_a_gif_is_written_and_a_video_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    path = write_video(tmp_path / "clip.mp4", ramp(5), 10)
    assert path.suffix == ".gif"
    with Image.open(path) as image:
        assert image.n_frames == 5
    (tmp_path / "real.mp4").write_bytes(b"anything")
    with pytest.raises(CameraLostError, match=r"dvgwm\[video\]"):
        open_footage(tmp_path / "real.mp4").sampled(10, 1)


def test_a_folder_is_sorted_as_people_count_and_an_image_is_one_frame(tmp_path):
    for k in range(12):
        Image.fromarray(ramp(12)[k]).save(tmp_path / f"frame{k}.png")
    assert [level(image) for _, image in open_footage(tmp_path).frames()] == list(range(12))
    assert open_footage(tmp_path / "frame3.png").sampled(10, 49).shape == (1, 32, 48, 3)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    Image.new("LA", (6, 4), (10, 128)).save(tmp_path / "a.png")
    assert open_footage(tmp_path / "a.png").sampled(10, 1).shape == (1, 4, 6, 3)


@pytest.mark.parametrize("make", ["missing", "empty folder", "text", "broken png", "broken mp4", "empty mp4"])
def test_what_gives_no_frames_is_refused(tmp_path, make):
    path = tmp_path / {"text": "a.txt", "broken png": "a.png", "broken mp4": "a.mp4", "empty mp4": "b.mp4"}.get(
        make, "d"
    )
    if make == "empty folder":
        path.mkdir()
    elif make != "missing":
        path.write_bytes(b"" if make == "empty mp4" else b"not what it says")
    with pytest.raises(CameraLostError) as caught:
        open_footage(path).sampled(10, 1)
    assert caught.value.exit_code == 20
    assert caught.value.log_code.startswith("CAMERA_")


def test_a_start_past_the_end_is_refused(tmp_path):
    Image.fromarray(ramp(1)[0]).save(tmp_path / "a.png")
    with pytest.raises(CameraLostError, match="--at"):
        open_footage(tmp_path / "a.png").sampled(10, 1, 3.0)


def test_fit_crops_the_middle_and_keeps_circles_round():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    made = fit(image, 50, 75)
    assert made.shape == (50, 75, 3)
    assert made[:, 20:55].min() > 240
    assert made[:, :10].max() < 15
    assert fit(made, 50, 75) is made
    assert fit_note((480, 640), (128, 192)) == "640 x 480, cropped to 640 x 427, resampled to 192 x 128"


@pytest.mark.video
@pytest.mark.skipif(not CLIPS.is_dir(), reason="no folder of other labs' clips beside this checkout")
@pytest.mark.parametrize("clip", sorted(CLIPS.glob("*.mp4")) or ["none"], ids=lambda clip: Path(clip).stem[:20])
def test_other_labs_clips_are_read(clip):
    pytest.importorskip("av", reason="PyAV is not installed")
    frames = open_footage(clip).sampled(10.0, 49)
    assert frames.dtype == np.uint8
    assert len(frames) >= 30
    assert frames.std() > 20
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 0.5, "something has to move"


def test_side_by_side_is_large_enough_to_see_and_holds_the_last_frame():
    made = np.stack(list(side_by_side(ramp(3, 64, 96), ramp(5, 64, 96), ("imagined", "recorded"))))
    assert made.shape == (5, 16 + 256, 2 * 384 + 4, 3)
    assert np.array_equal(made[4, 20:, :384], made[2, 20:, :384])
    assert (made[0, :16, :80] < 128).any(), "a label"


def test_a_gif_costs_what_moves_and_keeps_colours_and_time():
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    ground = np.asarray(Image.fromarray(noise).resize((12, 8)).resize((96, 64)))
    still = np.repeat(ground[None], 20, 0)
    moving = still.copy()
    for index, frame in enumerate(moving):
        frame[20:30, 3 * index : 3 * index + 10] = 255, 0, 0
    made = encode_gif(moving, 10.0)
    assert len(made) < 3 * len(encode_gif(still[:1], 10.0)) + 20 * 400
    with Image.open(io.BytesIO(made)) as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (20, 100, 0)
        image.seek(19)
        last = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(last - moving[19]).mean() < 12
    assert last[25, 60].tolist() == pytest.approx([255, 0, 0], abs=20)


def test_a_contact_sheet_shows_every_nth_frame_in_lines():
    sheet = contact_sheet([ramp(20, 8, 8), ramp(20, 8, 8)], 2, columns=6)
    assert level(sheet[4, 3]) == 0
    assert level(sheet[4, 13]) == 2
    assert level(sheet[14, 13]) == 2
    assert level(sheet[21 + 4, 3]) == 12


def test_an_unwritable_place_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(RecordingError) as caught:
        write_video(tmp_path / "no" / "clip", ramp(3), 10)
    assert (caught.value.exit_code, caught.value.log_code) == (50, "OUTPUT_WRITE")
    assert not list(tmp_path.iterdir())
