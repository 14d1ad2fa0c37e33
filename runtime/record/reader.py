"""Reads LeRobot data sets of versions 3.0 and 2.1, an episode at a time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dvgwm.runtime.errors import CameraLostError, ConfigError
from dvgwm.runtime.types import DoubleArray, ImageArray

from .lerobot import ACTION, EPISODES_PATH, IMAGE_PREFIX, INFO, OLD_EPISODES, OLD_VERSION, STATE, VERSION, Schema

_ROWS = tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set on disk: its schema, one row of facts per episode, and where its files are."""

    root: Path
    version: str
    schema: Schema
    info: Mapping[str, Any]
    rows: _ROWS

    def __len__(self) -> int:
        return len(self.rows)

    def instruction(self, number: int) -> str:
        """Return what episode ``number`` was asked to do."""
        return str(self.rows[number]["tasks"][0])

    def length(self, number: int) -> int:
        """Return how many frames episode ``number`` has."""
        return int(self.rows[number]["length"])

    def vectors(self, number: int) -> tuple[DoubleArray, DoubleArray]:
        """Return state and action of episode ``number``, float64 N D."""
        table = pq.read_table(self._data(number), filters=[("episode_index", "=", self.rows[number]["episode_index"])])
        state, action = (np.asarray(table[name].to_pylist(), np.float64) for name in (STATE, ACTION))
        return state, action

    def frames(self, number: int, camera: str) -> ImageArray:
        """Return what ``camera`` saw in episode ``number``, uint8 N H W 3.

        Raises `ConfigError` for an unknown camera, `CameraLostError` for a video that ends too soon.
        """
        (frames,) = self.videos([number], camera)
        return frames

    def videos(self, numbers: Sequence[int], camera: str) -> Iterator[ImageArray]:
        """Yield the frames of each episode; a file that holds several that follow each other is decoded once."""
        if camera not in self.schema.cameras:
            raise ConfigError(
                "CAMERA_NAME", f"{self.root}: wanted one of {', '.join(self.schema.cameras)}; got {camera!r}"
            )
        reader: _VideoFile | None = None
        for number in numbers:
            path, start = self._video(number, camera)
            if reader is None or reader.path != path or reader.next_frame > start:
                reader = _VideoFile(path)
            yield reader.read(start, self.length(number))

    def _data(self, number: int) -> Path:
        row = self.rows[number]
        if self.version == OLD_VERSION:
            return self.root / str(self.info["data_path"]).format(**self._old(row))
        at = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
        return self.root / str(self.info["data_path"]).format(**at)

    def _video(self, number: int, camera: str) -> tuple[Path, int]:
        row, key = self.rows[number], f"{IMAGE_PREFIX}{camera}"
        if self.version == OLD_VERSION:
            return self.root / str(self.info["video_path"]).format(video_key=key, **self._old(row)), 0
        at = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
        start = round(float(row[f"videos/{key}/from_timestamp"]) * self.schema.fps)
        return self.root / str(self.info["video_path"]).format(video_key=key, **at), start

    def _old(self, row: Mapping[str, Any]) -> dict[str, int]:
        episode = int(row["episode_index"])
        return {"episode_chunk": episode // int(self.info["chunks_size"]), "episode_index": episode}


class _VideoFile:
    """One mp4 read forward."""

    def __init__(self, path: Path) -> None:
        import av

        self.path, self.next_frame = path, 0
        try:
            self._container = av.open(str(path))
        except (OSError, av.FFmpegError) as error:
            raise CameraLostError("VIDEO_OPEN", f"cannot read {path}: {error}; copy the data set again") from None
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._decoded = self._container.decode(self._stream)

    def read(self, start: int, count: int) -> ImageArray:
        """Return ``count`` frames from frame ``start`` on."""
        kept: list[ImageArray] = []
        for frame in self._decoded:
            self.next_frame += 1
            if self.next_frame > start:
                kept.append(frame.to_ndarray(format="rgb24"))
            if len(kept) == count:
                return np.stack(kept)
        raise CameraLostError(
            "VIDEO_SHORT", f"{self.path}: wanted frames {start} to {start + count}, it ends at {self.next_frame}"
        )


def open_dataset(root: Path) -> Dataset:
    """Return the data set at ``root``; raises `ConfigError` where there is none, or one of another version."""
    try:
        info = json.loads((root / INFO).read_text("utf-8"))
        version = info["codebase_version"]
        rows = _old_rows(root, info) if version == OLD_VERSION else _rows(root) if version == VERSION else None
        schema = _schema(info)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError("DATASET_OPEN", f"{root} is no LeRobot data set ({type(error).__name__}: {error})") from None
    if rows is None:
        raise ConfigError("DATASET_VERSION", f"{root}: wanted version {VERSION} or {OLD_VERSION}, got {version!r}")
    return Dataset(root, version, schema, info, rows)


def _rows(root: Path) -> _ROWS:
    pattern = EPISODES_PATH.replace("{chunk_index:03d}", "*").replace("{file_index:03d}", "*")
    tables = [pq.read_table(path) for path in sorted(root.glob(pattern))]
    facts = [table.select([name for name in table.column_names if not name.startswith("stats/")]) for table in tables]
    return tuple(
        sorted((row for table in facts for row in table.to_pylist()), key=lambda row: int(row["episode_index"]))
    )


def _old_rows(root: Path, info: Mapping[str, Any]) -> _ROWS:
    lines = (root / OLD_EPISODES).read_text("utf-8").splitlines()
    rows = (json.loads(line) for line in lines if line.strip())
    data = str(info["data_path"])
    chunk = int(info["chunks_size"])
    # A part of a data set is one too: what is not there is no episode.
    return tuple(
        row
        for row in rows
        if (
            root / data.format(episode_chunk=row["episode_index"] // chunk, episode_index=row["episode_index"])
        ).is_file()
    )


def _schema(info: Mapping[str, Any]) -> Schema:
    features = info["features"]
    images = {name: feature["shape"] for name, feature in features.items() if feature["dtype"] == "video"}
    return Schema(
        robot_type=str(info.get("robot_type") or "unknown"),
        fps=float(info["fps"]),
        cameras={name.removeprefix(IMAGE_PREFIX): (int(shape[0]), int(shape[1])) for name, shape in images.items()},
        state_names=_names(features, STATE),
        action_names=_names(features, ACTION),
    )


def _names(features: Mapping[str, Any], feature: str) -> tuple[str, ...]:
    """Return the names of a vector's numbers, however they are nested; its indices where it has none."""
    listed = features.get(feature, {}).get("names")
    while isinstance(listed, Mapping):
        listed = next(iter(listed.values()))
    if listed is None:
        return tuple(map(str, range(int(features[feature]["shape"][0])))) if feature in features else ()
    if listed and isinstance(listed[0], list):
        listed = listed[0]
    return tuple(map(str, listed))
