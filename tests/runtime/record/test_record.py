"""LeRobot data sets: what is written is read back, stopped recordings go on, and version 2.1 is read too."""

import json
from dataclasses import replace

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="the record extra is not installed")
pytest.importorskip("av", reason="the record extra is not installed")

import pyarrow.parquet as pq

from dvgwm.runtime.display.video import encode_mp4
from dvgwm.runtime.errors import ConfigError, ShapeError
from dvgwm.runtime.record.lerobot import Episode, Schema
from dvgwm.runtime.record.reader import open_dataset
from dvgwm.runtime.record.writer import finish, write_episodes, written

pytestmark = pytest.mark.video

SCHEMA = Schema("arm", 10.0, {"scene": (32, 48)}, ("a", "b"), ("x", "y", "z"))
TASKS = {"go left": 0, "go right": 1}


def smooth(length, seed):
    """A coloured gradient that drifts: what a codec keeps well."""
    rows, columns = np.mgrid[0:32, 0:48]
    shifts = np.arange(length)[:, None, None] * 2 + seed * 9
    grey = (columns[None] * 3 + rows[None] * 2 + shifts) % 200
    return np.stack([grey, 255 - grey, np.full_like(grey, 40 * seed % 255)], -1).astype(np.uint8)


def episode(length, seed, words="go left"):
    rng = np.random.default_rng(seed)
    return Episode(
        words, {"scene": smooth(length, seed)}, rng.normal(size=(length, 2)), rng.normal(size=(length, 3)), {"n": seed}
    )


def record(root, order=(0, 1)):
    files = {0: [episode(5, 1), episode(12, 2, "go right")], 1: [episode(7, 3)]}
    first = {0: 0, 1: 2}
    for index in order:
        write_episodes(root, SCHEMA, index, first[index], TASKS, files[index])
    finish(root, SCHEMA, TASKS, {"train": "0:2", "test": "2:3"}, {"seed": 4})
    return [one for index in sorted(files) for one in files[index]]


def test_a_data_set_is_read_back(tmp_path):
    wanted = record(tmp_path)
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 3
    assert dataset.schema == SCHEMA
    assert json.loads((tmp_path / "meta/info.json").read_text())["seed"] == 4
    for number, one in enumerate(wanted):
        state, action = dataset.vectors(number)
        assert np.allclose(state, one.state, atol=1e-6)
        assert np.allclose(action, one.action, atol=1e-6)
        assert dataset.instruction(number) == one.instruction
        frames = dataset.frames(number, "scene")
        assert frames.shape == one.frames["scene"].shape
        assert np.abs(frames.astype(int) - one.frames["scene"]).mean() < 8
        other = wanted[(number + 1) % 3].frames["scene"][: len(frames)]
        assert np.abs(frames[: len(other)].astype(int) - other).mean() > 20


def test_files_may_be_written_in_any_order_and_frames_are_numbered_in_a_row(tmp_path):
    record(tmp_path, order=(1, 0))
    numbers = np.concatenate(
        [pq.read_table(path)["index"].to_numpy() for path in sorted(tmp_path.glob("data/*/*.parquet"))]
    )
    assert np.array_equal(numbers, np.arange(24))
    assert written(tmp_path, 1)
    assert not written(tmp_path, 2)


def test_videos_in_a_row_are_the_same_as_one_by_one(tmp_path):
    record(tmp_path)
    dataset = open_dataset(tmp_path)
    for number, frames in enumerate(dataset.videos([0, 1, 2], "scene")):
        assert np.array_equal(frames, dataset.frames(number, "scene"))


def test_statistics_are_those_of_all_frames(tmp_path):
    wanted = record(tmp_path)
    told = json.loads((tmp_path / "meta/stats.json").read_text())["action"]
    every = np.concatenate([one.action for one in wanted])
    assert told["mean"] == pytest.approx(every.mean(0), abs=1e-6)
    assert told["std"] == pytest.approx(every.std(0), abs=1e-6)
    assert told["count"] == [24]


def test_version_2_1_is_read_and_missing_episodes_are_none(tmp_path):
    one = episode(6, 5)
    info = {
        "codebase_version": "v2.1",
        "robot_type": "g1",
        "fps": 30,
        "chunks_size": 1000,
        "splits": {"train": "0:9"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            "observation.state": {"dtype": "float32", "shape": [2], "names": [["p", "q"]]},
            "action": {"dtype": "float32", "shape": [3], "names": None},
            "observation.images.top": {"dtype": "video", "shape": [32, 48, 3]},
        },
    }
    table = pa.table(
        {
            "observation.state": one.state.tolist(),
            "action": one.action.tolist(),
            "episode_index": np.full(6, 8),
        }
    )
    for folder in ("meta", "data/chunk-000", "videos/chunk-000/observation.images.top"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    lines = [{"episode_index": n, "tasks": ["pick"], "length": 6} for n in (7, 8)]
    (tmp_path / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pq.write_table(table, tmp_path / "data/chunk-000/episode_000008.parquet")
    video = tmp_path / "videos/chunk-000/observation.images.top/episode_000008.mp4"
    video.write_bytes(encode_mp4(one.frames["scene"], 30.0))
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    assert dataset.schema.state_names == ("p", "q")
    assert dataset.schema.action_names == ("0", "1", "2")
    assert np.allclose(dataset.vectors(0)[1], one.action)
    assert dataset.frames(0, "top").shape == (6, 32, 48, 3)


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no LeRobot data set"):
        open_dataset(tmp_path)
    record(tmp_path)
    with pytest.raises(ConfigError, match=r"wanted --camera wrist among its features; cameras: scene; for state"):
        open_dataset(tmp_path).frames(0, "wrist")
    info = json.loads((tmp_path / "meta/info.json").read_text())
    (tmp_path / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v1.6"}))
    with pytest.raises(ConfigError, match=r"wanted a LeRobot data set of v3\.0, v2\.0, v2\.1, got 'v1\.6'"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("part", ["scene", "state", "action", "size", "nan"])
def test_rows_and_frames_that_are_not_as_many_are_not_written(tmp_path, part):
    one = episode(6, 5)
    changed = {
        "scene": {"frames": {"scene": one.frames["scene"][:5]}},
        "state": {"state": one.state[:5]},
        "action": {"action": one.action[:, :2]},
        "size": {"frames": {"scene": one.frames["scene"][:, :16]}},
        "nan": {"action": one.action * np.nan},
    }[part]
    with pytest.raises(ShapeError, match="episode 4: ") as caught:
        write_episodes(tmp_path, SCHEMA, 0, 3, TASKS, [one, replace(one, **changed)])
    assert caught.value.log_code == "EPISODE_ROWS"
    assert not list(tmp_path.iterdir())


def test_a_data_set_without_a_state_says_so(tmp_path):
    schema = replace(SCHEMA, state_names=())
    one = replace(episode(6, 5), state=np.empty((6, 0)))
    write_episodes(tmp_path, schema, 0, 0, TASKS, [one])
    finish(tmp_path, schema, TASKS, {"train": "0:1"}, {})
    dataset = open_dataset(tmp_path)
    assert dataset.schema == schema
    assert dataset.vectors(0)[0].shape == (6, 0)
    assert "observation.state" not in json.loads((tmp_path / "meta/info.json").read_text())["features"]


def test_a_video_that_ends_too_soon_is_told(tmp_path):
    record(tmp_path)
    short = tmp_path / "videos/observation.images.scene/chunk-000/file-001.mp4"
    short.write_bytes(encode_mp4(smooth(3, 3), 10.0))
    with pytest.raises(ConfigError, match=r"episode 2: .*end at 0\.7000 s in .*, whose last frame is at 0\.2000 s"):
        open_dataset(tmp_path).frames(2, "scene")
