"""Data sets of other labs: every row has its own frame, or what does not belong together is refused by its episode."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="the record extra is not installed")
pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("torch", reason="the train extra is not installed")


from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.record.reader import open_dataset
from dvgwm.training.arrays import open_arrays
from dvgwm.training.census import split
from dvgwm.training.data import record_from

from .data_sets import (
    CAMERA,
    OLD_DATA,
    OLD_VIDEO,
    Kept,
    change_column,
    change_info,
    change_lines,
    change_rows,
    text,
    video_path,
    write_film,
    write_set,
    write_table,
)
from .numbered import number_of

pytestmark = pytest.mark.video


def silent(*_):
    pass


def read_back(root, **chosen):
    """Return the numbers of all frames, by episode, of the data set as `dvgwm-train data --from` reads it."""
    dataset = open_dataset(root, chosen.get("state"), chosen.get("action"))
    camera = chosen.get("camera", next(iter(dataset.schema.cameras)))
    return [[number_of(image) for image in frames] for frames in dataset.videos(range(len(dataset)), camera)]


def same(root):
    pass


THREE = tuple(Kept.every(3, rows) for rows in (8, 5, 7))
LATE = (Kept((4, 5, 6, 7), 12), Kept((2, 3, 4, 5), 10))
GAPS = (Kept((0, 1, 2, 5, 6, 9), 12), Kept((0, 3, 4, 5), 6))
READ = {
    "v2.1": ({}, same, {}),
    "v2.0": ({"version": "v2.0"}, same, {}),
    "v3.0": ({"version": "v3.0"}, same, {}),
    "v2.1, rows at a third of the video's rate": ({"fps": 10, "video_fps": 30, "episodes": THREE}, same, {}),
    "v3.0, rows at a third of the video's rate": (
        {"version": "v3.0", "fps": 10, "video_fps": 30, "episodes": THREE},
        same,
        {},
    ),
    "v3.0, frames between episodes": ({"version": "v3.0", "gap_frames": 7}, same, {}),
    "v2.1, rows begin later": ({"episodes": LATE}, same, {}),
    "v3.0, rows begin later": ({"version": "v3.0", "episodes": LATE}, same, {}),
    "v2.1, rows were lost": ({"episodes": GAPS}, same, {}),
    "v3.0, rows were lost": ({"version": "v3.0", "episodes": GAPS}, same, {}),
    "frames out of order": ({"version": "v3.0", "options": {"bf": "3", "g": "9"}}, same, {}),
    "NTSC": ({"fps": 29.97002997, "version": "v3.0"}, same, {}),
    "images in the table": ({"kind": "image"}, same, {}),
    "images in the table, v3.0": ({"kind": "image", "version": "v3.0"}, same, {}),
    "names of openpi's": (
        {"camera": "image", "state": "state", "action": "actions", "kind": "image", "names": ("actions",)},
        same,
        {},
    ),
    "one camera": ({"camera": "observation.image"}, same, {}),
    "a camera by its whole name": ({}, same, {"camera": CAMERA}),
    "no state": ({"state": None}, same, {}),
    "an action of another name": ({"action": "action.joints"}, same, {}),
    "a chosen action": ({"action": "wish"}, same, {"action": "wish"}),
    "a byte-order mark": (
        {},
        lambda root: [path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()) for path in root.glob("meta/*.json*")],
        {},
    ),
    "no paths of its own": ({}, lambda root: change_info(root, data_path=None, video_path=None), {}),
    "no paths of its own, v3.0": (
        {"version": "v3.0"},
        lambda root: change_info(root, data_path=None, video_path=None),
        {},
    ),
    "no time stamps": ({}, lambda root: [change_column(root, "timestamp", lambda _: None, n) for n in range(3)], {}),
    "tasks in the rows alone": ({}, lambda root: change_lines(root, lambda line: line | {"tasks": []}), {}),
    "tasks in the rows alone, v3.0": (
        {"version": "v3.0"},
        lambda root: change_rows(root, lambda row: {**row, "tasks": None}),
        {},
    ),
    "links as a hub's cache has them": ({}, lambda root: link(root), {}),
    "channels first": (
        {},
        lambda root: feature(root, CAMERA, shape=[3, 48, 96], names=["channels", "height", "width"]),
        {},
    ),
    "an empty line": (
        {},
        lambda root: text(root / "meta/episodes.jsonl", (root / "meta/episodes.jsonl").read_text() + "\n"),
        {},
    ),
}


def add(path, words):
    text(path, path.read_text("utf-8") + words)


def link(root):
    for path in list(root.rglob("*.mp4")):
        blob = root.parent / "blobs" / path.name
        blob.parent.mkdir(exist_ok=True)
        path.rename(blob)
        path.symlink_to(blob)


def feature(root, name, **facts):
    features = json.loads((root / "meta/info.json").read_text())["features"]
    change_info(root, features=features | {name: features[name] | facts})


@pytest.mark.few(6)
@pytest.mark.parametrize("case", READ)
def test_every_row_has_its_own_frame(tmp_path, case):
    made, change, chosen = READ[case]
    root = tmp_path / "set"
    wanted = write_set(root, **made)
    change(root)
    assert read_back(root, **chosen) == wanted
    out = tmp_path / "out"
    found = record_from(root, (48, 96), out, silent, **{"camera": None, **chosen})
    assert found.episodes == len(wanted)
    assert found.tasks == {"pick the cup": len(wanted)}
    arrays = open_arrays(out, next(iter(open_dataset(out).schema.cameras)))
    order = [number for part in split(open_dataset(root, chosen.get("state"), chosen.get("action"))) for number in part]
    assert [[number_of(image) for image in arrays.frames(n)] for n in range(len(wanted))] == [wanted[n] for n in order]
    assert read_back(out) == [wanted[n] for n in order]


@pytest.mark.few(4)
@pytest.mark.parametrize("case", range(40))
def test_random_rates_gaps_offsets_and_lengths_are_read_back(tmp_path, case):
    rng = np.random.default_rng(case)
    ratio = int(rng.integers(1, 5))
    fps = float(rng.choice([5, 10, 12.5, 15, 24000 / 1001, 30, 50]))
    episodes = []
    for _ in range(rng.integers(1, 5)):
        rows = int(rng.integers(2, 25))
        frames = np.arange(rows) * ratio
        if rng.random() < 0.5:
            frames += int(rng.integers(1, 9))  # the video begins earlier
        if rng.random() < 0.5 and rows > 4:
            frames = np.delete(frames, rng.choice(np.arange(1, rows - 1), rows // 4, replace=False))
        episodes.append(Kept(tuple(map(int, frames)), int(frames[-1]) + ratio))
    version = str(rng.choice(["v2.0", "v2.1", "v3.0"]))
    options = {"bf": str(rng.integers(0, 4)), "g": str(rng.integers(1, 20)), "preset": "fast"}
    gap = int(rng.integers(0, 6)) if version == "v3.0" else 0
    made = {"version": version, "episodes": tuple(episodes), "fps": fps, "video_fps": fps * ratio, "gap_frames": gap}
    wanted = write_set(tmp_path / "set", **made, options=options)
    assert read_back(tmp_path / "set") == wanted
    dataset = open_dataset(tmp_path / "set")
    backwards = list(range(len(wanted)))[::-1]
    assert [number_of(frames[-1]) for frames in dataset.videos(backwards, "top")] == [wanted[n][-1] for n in backwards]


def film(numbers, fps=10, index=1, old=True):
    return lambda root: write_film(video_path(root, index, old=old), numbers, fps)


def rename(old, new):
    return lambda root: (root / old).rename(root / new)


def fifo(name):
    def replace(root):
        (root / name).unlink(missing_ok=True)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(root / name)

    return replace


def write(name, words):
    return lambda root: text(root / name, words)


def column(name, change):
    return lambda root: change_column(root, name, change)


def lines(**facts):
    return lambda root: change_lines(root, lambda line: line | (facts if line["episode_index"] == 1 else {}))


def rows(**facts):
    return lambda root: change_rows(root, lambda row: row | (facts if row["episode_index"] == 1 else {}))


def shifted(frames):
    """The video of a v3.0 set has ``frames`` other than its episodes' spans say."""
    return film(frames, index=0, old=False)


def spans(change):
    key = f"videos/{CAMERA}/"

    def apply(root):
        change_rows(root, lambda row: row | {key + name: value for name, value in change(row).items()})

    return apply


V3 = {"version": "v3.0"}
FILE_1 = OLD_DATA.format(episode_chunk=0, episode_index=1)
VIDEO_1 = OLD_VIDEO.format(episode_chunk=0, video_key=CAMERA, episode_index=1)
EPISODE = r"episode 1: "
REFUSED = {
    # rows, lengths and frames that do not belong together
    "a row more than said": ({}, lines(length=8), EPISODE + "wanted its 8 rows .* got 9"),
    "a row less than said": ({}, lines(length=10), EPISODE + "wanted its 10 rows .* got 9"),
    "a row more than said, v3.0": (V3, rows(length=8), EPISODE + "wanted its 8 rows .* got 9"),
    "a frame lost": ({}, film([*range(12, 16), *range(17, 21)]), EPISODE + "top: 1 of 9 rows have no frame"),
    "a frame too many": ({}, film(range(12, 22)), EPISODE + "top: wanted 9 frames for 9 rows, got 10"),
    "one of three frames lost": (
        {"fps": 10, "video_fps": 30, "episodes": THREE},
        lambda root: write_film(video_path(root, 1), range(24, 38), 30),
        EPISODE + "top: wanted 15 frames for 5 rows, got 14",
    ),
    "a frame lost in a shared file": (V3, shifted([*range(15), *range(16, 32)]), "episodes 0 to 2 end at 3.2000 s"),
    "a frame too many in a shared file": (V3, shifted(range(33)), "episodes 0 to 2 end at 3.2000 s"),
    "later episodes begin a frame later": (
        V3,
        spans(
            lambda row: {f"{end}_timestamp": row[f"videos/{CAMERA}/{end}_timestamp"] + 0.1 for end in ("from", "to")}
        ),
        "end at 3.3000 s",
    ),
    "episodes that overlap": (
        V3,
        spans(lambda row: {"from_timestamp": 1.1, "to_timestamp": 2.0} if row["episode_index"] == 1 else {}),
        "episodes 0 and 1 overlap",
    ),
    "a span of no time": (
        V3,
        spans(lambda row: {"to_timestamp": row[f"videos/{CAMERA}/from_timestamp"]}),
        "no span of time",
    ),
    "a video at another rate": ({}, film(range(12, 21), 15), EPISODE + "top: 6 of 9 rows have no frame"),
    "a video at half the rate": ({}, film(range(12, 21), 5), EPISODE + "top: .* rows have no frame"),
    "rows at another rate than said": ({}, lambda root: change_info(root, fps=30), "rows a second, .* says 30"),
    "rows that stand still": (
        {},
        column("timestamp", lambda old: [*old[:4], old[3], *old[5:]]),
        EPISODE + "row 4 is at",
    ),
    "rows that go back": ({}, column("timestamp", lambda old: old[::-1]), EPISODE + "row 1 is at"),
    "a row of no time": ({}, column("timestamp", lambda old: [*old[:-1], None]), EPISODE + "timestamp: row 8 is null"),
    "a row at no time": (
        {},
        column("timestamp", lambda old: [float("nan"), *old[1:]]),
        EPISODE + "timestamp: row 0 is not",
    ),
    "rows of another episode": ({}, column("episode_index", lambda old: [2, *old[1:]]), EPISODE + "wanted its 9 rows"),
    "an episode twice": ({}, lines(episode_index=0), "episode 0 is described twice"),
    # values
    "an action of nothing": ({}, column("action", lambda old: [None, *old[1:]]), EPISODE + "action: row 0 is null"),
    "an action with nothing in it": (
        {},
        column("action", lambda old: [*old[:2], [1.0, None, 0.0], *old[3:]]),
        EPISODE + "action: row 2 has a null",
    ),
    "an action that is no number": (
        {},
        column("action", lambda old: [*old[:2], [1.0, float("nan"), 0.0], *old[3:]]),
        EPISODE + "action: row 2 is not finite",
    ),
    "an infinite state": (
        {},
        column("observation.state", lambda old: [[float("inf")] * 3, *old[1:]]),
        EPISODE + "observation.state: row 0 is not finite",
    ),
    "single actions": ({}, column("action", lambda old: [1.0] * len(old)), EPISODE + "action: each row is one double"),
    "shorter actions": (
        {},
        column("action", lambda old: [row[:2] for row in old]),
        EPISODE + "action: row 0 has 2 numbers",
    ),
    "uneven actions": ({}, column("action", lambda old: [*old[:-1], [0.0]]), EPISODE + "action: row 8 has 1 numbers"),
    "actions in words": ({}, column("action", lambda old: [["a"] * 3] * len(old)), EPISODE + "action: each row is of"),
    "no action column": ({}, column("action", lambda old: None), EPISODE + ".* has no column action"),
    # names
    "no action": (
        {"action": None},
        same,
        "wanted --action NAME .* cameras: top; for state and action: observation.state",
    ),
    "an unknown camera": ({}, same, "wanted --camera wrist among its features; cameras: top", {"camera": "wrist"}),
    "an unknown state": ({}, same, "wanted --state joints among", {"state": "joints"}),
    "an unknown action": ({}, same, "wanted --action joints among", {"action": "joints"}),
    "no camera": ({}, lambda root: features_without(root, CAMERA), "wanted --camera NAME .* cameras: none"),
    "a picture of no size": (
        {},
        lambda root: feature(root, CAMERA, shape=[3]),
        "has the shape .3., which is no picture's",
    ),
    "an action of no size": ({}, lambda root: feature(root, "action", shape=[0]), "which is no vector's"),
    # splits and tasks
    "a split past the end": (
        {},
        lambda root: change_info(root, splits={"train": "0:4"}),
        "train is 0:4, and there are 3",
    ),
    "a split in percent": (
        {},
        lambda root: change_info(root, splits={"train": "80%"}),
        "wanted train as FROM:TO .* '80%'",
    ),
    "a split that goes back": ({}, lambda root: change_info(root, splits={"train": "2:1"}), "train is 2:1"),
    "a split of everything": (
        {},
        lambda root: change_info(root, splits={"train": "0:" + "9" * 40}),
        "wanted train as FROM:TO",
    ),
    "tests alone": (
        {},
        lambda root: change_info(root, splits={"test": "0:3"}),
        "none of the 3 episodes .* to learn from",
    ),
    "an episode in both": (
        {},
        lambda root: change_info(root, splits={"train": "0:2", "test": "1:3"}),
        "episode 1 is in train and in test",
    ),
    "no task": (
        {},
        lambda root: untold(root, []),
        "episode 1 has no task",
    ),
    "an empty task": (
        {},
        lambda root: untold(root, [" "]),
        "episode 1 has no task",
    ),
    "a task of nothing": (
        {},
        lambda root: untold(root, [None]),
        "episode 1 has no task",
    ),
    # files
    "no video": ({}, lambda root: (root / VIDEO_1).unlink(), EPISODE + "top: no recording at"),
    "half a video": (
        {},
        lambda root: (root / VIDEO_1).write_bytes((root / VIDEO_1).read_bytes()[:900]),
        EPISODE + "top: cannot read",
    ),
    "a video of zeros": ({}, lambda root: blank(root / VIDEO_1, 0.0), EPISODE + "top: .*its frame at .* is damaged"),
    "a video whose end is zeros": (
        {},
        lambda root: blank(root / VIDEO_1, 0.6),
        EPISODE + "top: .*its frame at .* is damaged",
    ),
    "no rows": ({}, lambda root: shutil.rmtree(root / "data"), "tells of 3 episodes and has the rows of none"),
    "a damaged table": ({}, write(FILE_1, "no table"), "is no parquet file"),
    "half a table": (
        {},
        lambda root: (root / FILE_1).write_bytes((root / FILE_1).read_bytes()[:-30]),
        "is no parquet file",
    ),
    "no episodes file": ({}, lambda root: (root / "meta/episodes.jsonl").unlink(), r"cannot read .*episodes\.jsonl"),
    "no episodes table": (V3, lambda root: shutil.rmtree(root / "meta/episodes"), "no whole LeRobot data set"),
    "a picture that is none": (
        {"kind": "image"},
        column(CAMERA, lambda old: [{"bytes": b"no", "path": None}, *old[1:]]),
        EPISODE + "top: row 0: its picture cannot be read",
    ),
    "a picture elsewhere": (
        {"kind": "image"},
        column(CAMERA, lambda old: [{"bytes": None, "path": "../../etc/hostname"}, *old[1:]]),
        EPISODE + "top: picture .* leads outside the data set",
    ),
    "another version": ({}, lambda root: change_info(root, codebase_version="v1.6"), "wanted a LeRobot data set of"),
    "no version": ({}, lambda root: change_info(root, codebase_version=None), "codebase_version"),
    # metadata made to harm
    "paths that lead out": (
        {},
        lambda root: change_info(root, data_path="../{episode_index}.parquet"),
        "leads to no place",
    ),
    "paths from the root": ({}, lambda root: change_info(root, video_path="/etc/{video_key}"), "leads to no place"),
    "a camera that leads out": ({"camera": "../../../../tmp/x"}, same, "leads to no place"),
    "a path of two thousand million places": (
        V3,
        lambda root: change_info(root, data_path="{chunk_index:2000000000d}.parquet"),
        "leads to no place",
    ),
    "a path of 99 places": (V3, lambda root: change_info(root, data_path="{chunk_index:099d}"), "at most 20 places"),
    "a path into our own code": (
        V3,
        lambda root: change_info(root, data_path="{chunk_index.__class__}"),
        "leads to no place",
    ),
    "a path of unknown numbers": (
        V3,
        lambda root: change_info(root, data_path="{day}.parquet"),
        "wanted one of chunk_index",
    ),
    "a pipe for the info": ({}, fifo("meta/info.json"), "is no plain file"),
    "a pipe for the episodes": ({}, fifo("meta/episodes.jsonl"), "is no plain file"),
    "a pipe for the episodes, v3.0": (V3, fifo("meta/episodes/chunk-000/file-001.parquet"), "is no plain file"),
    "a pipe for the rows": ({}, fifo(FILE_1), "is no plain file"),
    "a pipe for the video": ({}, fifo(VIDEO_1), EPISODE + "top: .* is no file and no folder"),
    "a folder for the rows": ({}, lambda root: ((root / FILE_1).unlink(), (root / FILE_1).mkdir()), "is no plain file"),
    "an endless number": ({}, lines(length=10**18), "wanted length of 0 to"),
    "a length of less than nothing": ({}, lines(length=-1), "wanted length of 0 to"),
    "a length in words": ({}, lines(length="9"), "wanted length of 0 to"),
    "no rows at all": ({}, lines(length=0), "an episode of no rows"),
    "an episode of nothing": ({}, lines(episode_index=None), "wanted episode_index of 0 to"),
    "a true episode": ({}, lines(episode_index=True), "wanted episode_index of 0 to"),
    "chunks of nothing": ({}, lambda root: change_info(root, chunks_size=0), "wanted chunks_size of 1 to"),
    "a gigantic data set": ({}, lambda root: change_info(root, total_episodes=10**30), "total_episodes"),
    "no rate": ({}, lambda root: change_info(root, fps=0), "wanted fps above 0"),
    "an endless rate": ({}, write("meta/info.json", '{"codebase_version": "v2.1", "fps": 1e999}'), "meta/info.json"),
    "a rate in words": ({}, lambda root: change_info(root, fps="10"), r"\$\.fps"),
    "features in a list": ({}, lambda root: change_info(root, features=[]), r"\$\.features"),
    "a feature of nothing": ({}, lambda root: change_info(root, features={"action": None}), r"\$\.features"),
    "a gigantic shape": ({}, lambda root: feature(root, "action", shape=[10**6, 10**6]), "which is no vector's"),
    "a list of facts": ({}, write("meta/info.json", "[]"), "meta/info.json"),
    "half an info": ({}, write("meta/info.json", '{"codebase_version": "v2.1"'), "meta/info.json"),
    "a hole in the info": ({}, write("meta/info.json", "[" * 100_000), "nested too deeply"),
    "an info in another alphabet": (
        {},
        lambda root: (root / "meta/info.json").write_bytes(b"\xff\xfe{\x00"),
        "meta/info.json",
    ),
    "episodes that are no objects": ({}, write("meta/episodes.jsonl", "[1]\n"), "line 1 is no object"),
    "episodes of holes": ({}, write("meta/episodes.jsonl", "[" * 100_000), "nested too deeply"),
    "episodes of endless digits": (
        {},
        write("meta/episodes.jsonl", '{"episode_index": ' + "9" * 10_000 + "}"),
        "episodes.jsonl",
    ),
    "a table of other columns": (
        V3,
        lambda root: write_table(root / "meta/episodes/chunk-000/file-000.parquet", pa.table({"a": [1]})),
        "wanted data/chunk_index of 0 to",
    ),
    "a column of words": (
        V3,
        lambda root: change_rows(root, lambda row: row | {"length": "9"}),
        "wanted length of 0 to",
    ),
}


def untold(root, tasks):
    lines(tasks=tasks)(root)
    text(root / "meta/tasks.jsonl", "")


def blank(path, share):
    """Put zeros in the place of a video's pictures, from that share of them on."""
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    end = begin - 8 + int.from_bytes(data[begin - 8 : begin - 4], "big")
    begin += int((end - begin) * share)
    data[begin:end] = bytes(end - begin)
    path.write_bytes(data)


def features_without(root, name):
    features = json.loads((root / "meta/info.json").read_text())["features"]
    change_info(root, features={other: facts for other, facts in features.items() if other != name})


@pytest.mark.few(20)
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_belong_together_is_refused_in_one_line(tmp_path, case):
    made, change, message, *chosen = REFUSED[case]
    root, out = tmp_path / "set", tmp_path / "out"
    write_set(root, **made)
    change(root)
    with pytest.raises(ConfigError, match=message) as caught:
        record_from(root, (48, 96), out, silent, **(chosen[0] if chosen else {}))
    assert caught.value.line.startswith("E2 DATASET_")
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["set"] or case.startswith("links")


def test_a_failed_reading_leaves_nothing_and_the_next_one_goes_well(tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    write_set(root, episodes=tuple(Kept.every(1, 4) for _ in range(30)))
    path = root / OLD_DATA.format(episode_chunk=0, episode_index=28)
    whole = path.read_bytes()
    change_column(root, "action", lambda old: [None, *old[1:]], 28)
    with pytest.raises(ConfigError, match="episode 28: action: row 0 is null"):
        record_from(root, (48, 96), out, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    path.write_bytes(whole)
    assert record_from(root, (48, 96), out, silent).episodes == 30


def test_a_part_of_a_set_is_one_and_its_splits_count_by_index(tmp_path):
    write_set(tmp_path, episodes=tuple(Kept.every(1, 4) for _ in range(10)))
    change_info(tmp_path, splits={"train": "0:6", "val": "6:10"})
    for index in (0, 1, 2, 4, 7, 9):
        (tmp_path / OLD_DATA.format(episode_chunk=0, episode_index=index)).unlink()
    dataset = open_dataset(tmp_path)
    assert [row.index for row in dataset.rows] == [3, 5, 6, 8]
    assert [[dataset.rows[number].index for number in part] for part in split(dataset)] == [[3, 5], [6, 8]]
    found = record_from(tmp_path, (48, 96), tmp_path / "out", silent)
    assert (found.episodes, found.absent, found.train, found.test) == (4, 6, 2, 2)
    change_info(tmp_path, total_episodes=12)
    assert open_dataset(tmp_path).absent == 8, "two are not even listed"


def test_splits_may_be_lists_and_several_ranges(tmp_path):
    write_set(tmp_path, episodes=tuple(Kept.every(1, 4) for _ in range(10)))
    change_info(tmp_path, splits={"train": "0:2, 5:7", "test": [9, 3]})
    assert split(open_dataset(tmp_path)) == ([0, 1, 5, 6], [3, 9])
    change_info(tmp_path, splits={"train": "0:5"})
    assert split(open_dataset(tmp_path)) == ([0, 1, 2, 3], [4])
    change_info(tmp_path, splits={"test": "8:10"})
    assert split(open_dataset(tmp_path)) == (list(range(8)), [8, 9])


def test_scalars_are_vectors_of_one(tmp_path):
    write_set(tmp_path, column=lambda name, rows: pa.array([float(row) for row in range(rows)]), names=("speed",))
    for name in ("action", "observation.state"):
        feature(tmp_path, name, shape=[1])
    dataset = open_dataset(tmp_path)
    assert dataset.schema.action_names == ("speed",)
    assert dataset.vectors(1)[1].tolist() == [[float(row)] for row in range(9)]


def test_a_table_that_says_a_thousand_million_rows_is_not_read(tmp_path, monkeypatch):
    from dvgwm.runtime.record import metadata

    write_set(tmp_path)
    dataset = open_dataset(tmp_path)
    monkeypatch.setattr(metadata, "MOST", 11)
    with pytest.raises(ConfigError, match="wanted at most 11 rows, got 12"):
        dataset.vectors(0)


G1 = Path(__file__).parents[3] / "shared/data/lerobot_v21_g1"


@pytest.mark.skipif(not G1.is_dir(), reason="no folder of other labs' data sets beside this checkout")
def test_a_part_of_a_real_data_set_is_read(tmp_path):
    found = record_from(G1, (48, 64), tmp_path / "out", silent)
    assert (found.episodes, found.absent, found.frames) == (2, 98, 221 + 277)
