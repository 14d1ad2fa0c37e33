"""Small LeRobot data sets of every layout, whose pictures are numbered: a reader shows which frames it took for which rows."""

import io
import json
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from .numbered import HEIGHT, WIDTH, picture, write_clip

CAMERA = "observation.images.top"
OLD_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
OLD_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
TIME_BASE = Fraction(1, 90_000)
TASK = "pick the cup"


@dataclass(frozen=True)
class Kept:
    """An episode: which frames of its part of the video its rows belong to, and how many frames that part has."""

    frames: tuple[int, ...]
    length: int

    @classmethod
    def every(cls, ratio, rows):
        """Rows that take every ``ratio``-th frame of as many as they need."""
        return cls(tuple(range(0, ratio * rows, ratio)), ratio * rows)


THREE_EPISODES = Kept.every(1, 12), Kept.every(1, 9), Kept.every(1, 11)


def write_set(
    root,
    version="v2.1",
    episodes=THREE_EPISODES,
    fps=10,
    video_fps=None,
    gap_frames=0,
    camera=CAMERA,
    kind="video",
    state="observation.state",
    action="action",
    column=lambda name, rows: pa.array([[float(row), 0.5, -0.5] for row in range(rows)]),
    names=("x", "y", "z"),
    options=None,
):
    """Write a data set and return, for every episode, the numbers of its rows' frames."""
    video_fps = video_fps or fps
    begins, numbers, stamps = [], [], []
    shown = 0
    for kept in episodes:
        begins.append(shown)
        numbers.append([shown + frame for frame in kept.frames])
        stamps.append(np.array(kept.frames) / float(video_fps))
        shown += kept.length + gap_frames
    shown -= gap_frames
    old = version != "v3.0"
    write_json(
        root / "meta/info.json",
        {
            "codebase_version": version,
            "robot_type": "arm",
            "total_episodes": len(episodes),
            "fps": fps,
            "chunks_size": 1000,
            "splits": {"train": f"0:{len(episodes)}"},
            "data_path": OLD_DATA if old else DATA,
            "video_path": (OLD_VIDEO if old else VIDEO) if kind == "video" else None,
            "features": {
                camera: {"dtype": kind, "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]},
                "timestamp": {"dtype": "float32", "shape": [1], "names": None},
                **{name: {"dtype": "float32", "shape": [3], "names": list(names)} for name in (state, action) if name},
            },
        },
    )
    tables = []
    for index, rows in enumerate(numbers):
        columns = {name: column(name, len(rows)) for name in (state, action) if name}
        columns["timestamp"] = pa.array(stamps[index].astype(np.float32))
        columns |= {"episode_index": pa.array([index] * len(rows)), "task_index": pa.array([0] * len(rows))}
        if kind == "image":
            columns[camera] = pa.array([{"bytes": png(number), "path": None} for number in rows])
        tables.append(pa.table(columns))
    lines = [{"episode_index": n, "tasks": [TASK], "length": len(rows)} for n, rows in enumerate(numbers)]
    spans = [(begin, begin + kept.length) for begin, kept in zip(begins, episodes, strict=True)]
    films = {}
    if old:
        text(root / "meta/tasks.jsonl", json.dumps({"task_index": 0, "task": TASK}) + "\n")
        text(root / "meta/episodes.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
        for index, table in enumerate(tables):
            write_table(root / OLD_DATA.format(episode_chunk=0, episode_index=index), table)
            films[video_path(root, index, camera)] = range(*spans[index])
    else:
        write_table(root / DATA.format(chunk_index=0, file_index=0), pa.concat_tables(tables))
        listed = [{**line, **_places(camera, kind, span, video_fps)} for line, span in zip(lines, spans, strict=True)]
        write_table(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(listed))
        write_table(root / "meta/tasks.parquet", pa.table({"task_index": [0], "__index_level_0__": [TASK]}))
        films[video_path(root, 0, camera, old=False)] = range(shown)
    if kind == "video":
        for path, frames in films.items():
            write_film(path, frames, video_fps, options)
    return numbers


def _places(camera, kind, span, video_fps):
    """Return where an episode of a v3.0 set is in its files."""
    at = {"chunk_index": 0, "file_index": 0}
    places = {f"data/{name}": value for name, value in at.items()}
    if kind == "video":
        places |= {f"videos/{camera}/{name}": value for name, value in at.items()}
        begin_s, end_s = (frame / float(video_fps) for frame in span)
        places |= {f"videos/{camera}/from_timestamp": begin_s, f"videos/{camera}/to_timestamp": end_s}
    return places


def write_film(path, numbers, fps, options=None):
    """Write the numbered frames at k / fps, as exactly as an mp4 can state it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ticks = [round(k / float(fps) * TIME_BASE.denominator) for k in range(len(numbers))]
    write_clip(path, numbers, fps, ticks=ticks, time_base=TIME_BASE, options={"preset": "ultrafast", **(options or {})})


def video_path(root, index, camera=CAMERA, old=True):
    """Return where the video of an episode, or of the one file of a set, is."""
    if old:
        return root / OLD_VIDEO.format(episode_chunk=0, video_key=camera, episode_index=index)
    return root / VIDEO.format(video_key=camera, chunk_index=0, file_index=0)


def png(number):
    """Return a numbered picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture(number)).save(buffer, "png")
    return buffer.getvalue()


def write_table(path, table):
    """Write a table, its folders too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def write_json(path, value):
    """Write a value as JSON, its folders too."""
    text(path, json.dumps(value))


def text(path, words):
    """Write a text, its folders too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(words, "utf-8")


def change_info(root, **facts):
    """Set facts of ``meta/info.json``; None takes one out."""
    info = json.loads((root / "meta/info.json").read_text())
    for name, value in facts.items():
        info.pop(name, None)
        if value is not None:
            info[name] = value
    write_json(root / "meta/info.json", info)


def change_lines(root, change):
    """Change every line of ``meta/episodes.jsonl``."""
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    text(root / "meta/episodes.jsonl", "".join(f"{json.dumps(change(line))}\n" for line in lines))


def change_rows(root, change):
    """Change the episode table of a v3.0 set, row by row."""
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    write_table(path, pa.Table.from_pylist([change(row) for row in pq.read_table(path).to_pylist()]))


def change_column(root, name, change, index=1):
    """Change a column of an old set's episode."""
    path = root / OLD_DATA.format(episode_chunk=0, episode_index=index)
    table = pq.read_table(path)
    changed = change(table[name].to_pylist())
    place = table.column_names.index(name)
    write_table(
        path, table.remove_column(place) if changed is None else table.set_column(place, name, pa.array(changed))
    )
