"""Writes LeRobot v3.0 data sets, a file of whole episodes at a time: a stopped recording goes on from there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dvgwm.runtime.display.video import encode_mp4
from dvgwm.runtime.errors import RecordingError, ShapeError
from dvgwm.runtime.files import write_atomic, write_json
from dvgwm.runtime.types import DoubleArray

from . import lerobot
from .lerobot import Episode, Schema, features_of

KEY_FRAME_EVERY = 10
PIXELS_EVERY = 8
"""Pixels apart in the frames that statistics are taken from."""


def place(index: int) -> dict[str, int]:
    """Return chunk and file number of the ``index``-th file of a data set."""
    return {"chunk_index": index // lerobot.CHUNK_FILES, "file_index": index % lerobot.CHUNK_FILES}


def write_episodes(
    root: Path, schema: Schema, index: int, first_episode: int, tasks: Mapping[str, int], episodes: Sequence[Episode]
) -> None:
    """Write the ``index``-th file of the data set at ``root``: videos, then frames, then the episode table, each atomic.

    ``tasks`` numbers the instructions. The file counts as written once its episode table is there; its frames are
    numbered from 0 until `finish`, so files may be written in any order. Raises `RecordingError` if the place cannot be
    written, `ShapeError` for an episode with other numbers of rows and frames, or other sizes than the schema's.
    """
    at = place(index)
    for number, episode in enumerate(episodes, first_episode):
        _check_rows(schema, number, episode)
    for camera in schema.cameras:
        frames = np.concatenate([episode.frames[camera] for episode in episodes])
        starts = np.cumsum([0, *(len(episode.state) for episode in episodes)])[:-1]
        path = lerobot.VIDEO_PATH.format(video_key=f"{lerobot.IMAGE_PREFIX}{camera}", **at)
        _write(root / path, encode_mp4(frames, schema.fps, KEY_FRAME_EVERY, frozenset(map(int, starts))))
    _write(root / lerobot.DATA_PATH.format(**at), _parquet(_frame_table(schema, first_episode, tasks, episodes)))
    table = _episode_table(schema, at, first_episode, episodes)
    _write(root / lerobot.EPISODES_PATH.format(**at), _parquet(table))


def _check_rows(schema: Schema, number: int, episode: Episode) -> None:
    """Raise `ShapeError` if an episode's frames, states and actions do not belong together."""
    rows = len(episode.action)
    wanted: dict[str, tuple[int, ...]] = {camera: (rows, *size, 3) for camera, size in schema.cameras.items()}
    wanted |= {"state": (rows, len(schema.state_names)), "action": (rows, len(schema.action_names))}
    got = {camera: frames.shape for camera, frames in episode.frames.items()}
    got |= {"state": episode.state.shape, "action": episode.action.shape}
    for name, shape in wanted.items():
        if not rows or got.get(name) != shape:
            raise ShapeError(
                "EPISODE_ROWS", f"episode {number}: wanted {name} as {list(shape)}, got {list(got.get(name, ()))}"
            )
    for name, values in (("state", episode.state), ("action", episode.action)):
        if not np.isfinite(values).all():
            raise ShapeError("EPISODE_ROWS", f"episode {number}: {name} is not finite")


def written(root: Path, index: int) -> bool:
    """Return whether the ``index``-th file of the data set at ``root`` is complete."""
    return (root / lerobot.EPISODES_PATH.format(**place(index))).is_file()


def finish(
    root: Path, schema: Schema, tasks: Mapping[str, int], splits: Mapping[str, str], extra: Mapping[str, Any]
) -> None:
    """Write the metadata of the whole data set at ``root``, its info last; ``extra`` goes into the info as it is."""
    if not written(root, 0):
        raise RecordingError("DATASET_EMPTY", f"{root} has no episodes; record some before it is finished")
    episodes = pa.concat_tables(_numbered(root))
    frames = int(np.sum(episodes["length"].to_numpy()))
    _write(root / lerobot.TASKS, _parquet(_task_table(tasks)))
    write_json(root / lerobot.STATS, _joined_statistics(episodes))
    write_json(
        root / lerobot.INFO,
        {
            "codebase_version": lerobot.VERSION,
            "robot_type": schema.robot_type,
            "total_episodes": len(episodes),
            "total_frames": frames,
            "total_tasks": len(tasks),
            "chunks_size": lerobot.CHUNK_FILES,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 500,
            "fps": schema.fps if schema.fps % 1 else int(schema.fps),
            "splits": dict(splits),
            "data_path": lerobot.DATA_PATH,
            "video_path": lerobot.VIDEO_PATH,
            "features": features_of(schema),
            **extra,
        },
    )


def _numbered(root: Path) -> Iterator[pa.Table]:
    """Number the frames of all files in a row, as often as wanted, and return the episode tables."""
    first = 0
    for index in takewhile(lambda number: written(root, number), count()):
        data, table = (root / path.format(**place(index)) for path in (lerobot.DATA_PATH, lerobot.EPISODES_PATH))
        frames, episodes = pq.read_table(data), pq.read_table(table)
        ends = np.cumsum(episodes["length"].to_numpy()) + first
        columns = {"dataset_from_index": ends - episodes["length"].to_numpy(), "dataset_to_index": ends}
        if not np.array_equal(episodes["dataset_to_index"].to_numpy(), ends):
            for name, values in columns.items():
                episodes = episodes.set_column(episodes.column_names.index(name), name, pa.array(values))
            numbers = pa.array(np.arange(len(frames)) + first)
            _write(data, _parquet(frames.set_column(frames.column_names.index("index"), "index", numbers)))
            _write(table, _parquet(episodes))
        yield episodes
        first += len(frames)


def _frame_table(schema: Schema, first_episode: int, tasks: Mapping[str, int], episodes: Sequence[Episode]) -> pa.Table:
    lengths = [len(episode.state) for episode in episodes]
    within = np.concatenate([np.arange(length) for length in lengths])
    numbers = {
        "frame_index": within,
        "episode_index": np.repeat(np.arange(len(episodes)) + first_episode, lengths),
        "index": np.arange(len(within)),
        "task_index": np.repeat([tasks[episode.instruction] for episode in episodes], lengths),
    }
    columns = {
        **{
            name: _vectors(np.concatenate([_vector(episode, name) for episode in episodes]))
            for name in lerobot.vectors_of(schema)
        },
        "timestamp": pa.array((within / schema.fps).astype(np.float32)),
        **{name: pa.array(numbers[name].astype(np.int64)) for name in lerobot.INDICES},
    }
    return pa.table(columns)


def _episode_table(schema: Schema, at: Mapping[str, int], first_episode: int, episodes: Sequence[Episode]) -> pa.Table:
    lengths = np.array([len(episode.state) for episode in episodes])
    ends = np.cumsum(lengths)
    total = len(episodes)
    columns: dict[str, Any] = {
        "episode_index": np.arange(total) + first_episode,
        "tasks": [[episode.instruction] for episode in episodes],
        "length": lengths,
        "dataset_from_index": ends - lengths,
        "dataset_to_index": ends,
    }
    for kind in ("data", "meta/episodes"):
        columns |= {f"{kind}/{name}": np.full(total, value) for name, value in at.items()}
    for camera in schema.cameras:
        key = f"videos/{lerobot.IMAGE_PREFIX}{camera}"
        columns |= {f"{key}/{name}": np.full(total, value) for name, value in at.items()}
        columns[f"{key}/from_timestamp"] = (ends - lengths) / schema.fps
        columns[f"{key}/to_timestamp"] = ends / schema.fps
    statistics = [dict(_statistics(schema, episode)) for episode in episodes]
    for name in statistics[0]:
        columns[f"stats/{name}"] = [row[name] for row in statistics]
    for name in episodes[0].extras:
        columns[name] = [episode.extras[name] for episode in episodes]
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def _vector(episode: Episode, name: str) -> DoubleArray:
    return episode.state if name == lerobot.STATE else episode.action


def _statistics(schema: Schema, episode: Episode) -> Iterator[tuple[str, Any]]:
    for name in lerobot.vectors_of(schema):
        values = _vector(episode, name)
        for kind, row in _moments(values.astype(np.float64)).items():
            yield f"{name}/{kind}", row.tolist()
        yield f"{name}/count", [len(values)]
    for camera, frames in episode.frames.items():
        pixels = frames[:, ::PIXELS_EVERY, ::PIXELS_EVERY].reshape(-1, 3) / 255.0
        for kind, row in _moments(pixels).items():
            yield f"{lerobot.IMAGE_PREFIX}{camera}/{kind}", row[:, None, None].tolist()  # as LeRobot has them: 3 1 1
        yield f"{lerobot.IMAGE_PREFIX}{camera}/count", [len(frames)]


def _moments(values: DoubleArray) -> dict[str, DoubleArray]:
    return {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}


def _joined_statistics(episodes: pa.Table) -> dict[str, Any]:
    """Return the statistics of all episodes from those of each."""
    result: dict[str, Any] = {}
    for column in episodes.column_names:
        if column.startswith("stats/") and column.endswith("/count"):
            feature = column.removeprefix("stats/").removesuffix("/count")
            counts = np.asarray(episodes[column].to_pylist(), np.float64)[:, 0]
            parts = {
                kind: np.asarray(episodes[f"stats/{feature}/{kind}"].to_pylist())
                for kind in ("min", "max", "mean", "std")
            }
            mean = np.average(parts["mean"], 0, counts)
            variance = np.average(parts["std"] ** 2 + (parts["mean"] - mean) ** 2, 0, counts)
            result[feature] = {
                "min": parts["min"].min(0).tolist(),
                "max": parts["max"].max(0).tolist(),
                "mean": mean.tolist(),
                "std": np.sqrt(variance).tolist(),
                "count": [int(counts.sum())],
            }
    return result


def _task_table(tasks: Mapping[str, int]) -> pa.Table:
    """Return instructions and numbers as pandas would write them, the instruction as the index: LeRobot reads it so."""
    names = sorted(tasks, key=lambda name: tasks[name])
    index = "__index_level_0__"
    table = pa.table({"task_index": pa.array(range(len(names)), pa.int64()), index: pa.array(names)})
    columns = [
        {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, field, kind, numpy in (
            ("task_index", "task_index", "int64", "int64"),
            (None, index, "unicode", "object"),
        )
    ]
    pandas = {"index_columns": [index], "column_indexes": [], "columns": columns, "pandas_version": "2.2.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _vectors(rows: DoubleArray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(rows, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="snappy")
    return bytes(sink.getvalue())


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordingError("OUTPUT_WRITE", f"cannot write {path}: {error.strerror}; choose another --out") from error
    write_atomic(path, data)
