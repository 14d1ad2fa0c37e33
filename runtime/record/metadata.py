"""The metadata of a LeRobot data set, read with nothing believed: each value is of its kind, no path leads outside."""

import itertools
import json
import math
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from dvgwm.runtime.errors import ConfigError

from .lerobot import (
    DATA_PATH,
    INFO,
    OLD_DATA_PATH,
    OLD_EPISODES,
    OLD_TASKS,
    OLD_VERSIONS,
    OLD_VIDEO_PATH,
    TASKS,
    VERSION,
    VIDEO_PATH,
)

LARGEST_BYTES = 256_000_000
"""Of a file of metadata."""
MOST = 10_000_000
"""Of episodes, and of the rows of a file: what says more than that is damaged."""
FASTEST_FPS = 1000.0
LONGEST_PATH = 1000
_FIELD = re.compile(r"\{(\w+)(?::0?(\d{1,2})d?)?\}")
_WIDEST = 20


@dataclass(frozen=True, slots=True)
class Feature:
    """The metadata of one column or video."""

    dtype: str
    shape: tuple[int, ...] = ()
    names: Any = None
    info: dict[str, Any] | None = None
    video_info: dict[str, Any] | None = None

    @property
    def is_depth(self) -> bool:
        """Whether it shows distances."""
        return any((facts or {}).get("video.is_depth_map") is True for facts in (self.info, self.video_info))


@dataclass(frozen=True, slots=True)
class Info:
    """The metadata in ``meta/info.json``."""

    codebase_version: str
    fps: float
    features: dict[str, Feature]
    data_path: str | None = None
    video_path: str | None = None
    chunks_size: int = 1000
    total_episodes: int | None = None
    robot_type: Any = None
    splits: dict[str, Any] | None = None

    @property
    def is_old(self) -> bool:
        """Whether every episode has files of its own."""
        return self.codebase_version in OLD_VERSIONS


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """An episode's part of a video file, in the file's own seconds; up to its end if no other is given."""

    path: Path
    from_s: float = 0.0
    to_s: float = math.inf


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """The metadata of an episode: its index in the data set, rows, tasks, files, and further facts."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    spans: Mapping[str, VideoSpan] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_info(root: Path) -> Info:
    """Return ``meta/info.json``; raises `ConfigError` if it is missing, damaged or of another version."""
    if not (root / INFO).exists():
        raise ConfigError("DATASET_OPEN", f"{root} is no LeRobot data set: it has no {INFO}")
    try:
        raw = msgspec.json.decode(_bytes(root / INFO))
        version = raw.get("codebase_version") if isinstance(raw, dict) else None
        if isinstance(version, str) and version not in (VERSION, *OLD_VERSIONS):
            wanted = ", ".join((VERSION, *OLD_VERSIONS))
            raise ConfigError("DATASET_VERSION", f"{root}: wanted a LeRobot data set of {wanted}, got {version!r}")
        info = msgspec.convert(raw, Info)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("DATASET_OPEN", f"{root} is no LeRobot data set: {INFO}: {_said(error)}") from None
    if not 0 < info.fps <= FASTEST_FPS:
        raise ConfigError(
            "DATASET_OPEN", f"{root / INFO}: wanted fps above 0 and at most {FASTEST_FPS:g}, got {info.fps:g}"
        )
    for name, number in (("chunks_size", info.chunks_size), ("total_episodes", info.total_episodes or 1)):
        if not 0 < number <= MOST:
            raise ConfigError("DATASET_OPEN", f"{root / INFO}: wanted {name} of 1 to {MOST}, got {number}")
    return info


def read_episodes(root: Path, info: Info) -> tuple[EpisodeRow, ...]:
    """Return the metadata of the episodes by their indices, ascending; raises `ConfigError` if it contradicts itself."""
    rows = sorted(_old_rows(root, info) if info.is_old else _rows(root, info), key=lambda row: row.index)
    for before, row in itertools.pairwise(rows):
        if row.index == before.index:
            raise ConfigError("DATASET_EPISODE", f"{root}: episode {row.index} is described twice")
    return tuple(rows)


def read_tasks(root: Path, info: Info) -> dict[int, str]:
    """Return the sentences of the tasks by their numbers; empty without a table of them."""
    if not (root / (OLD_TASKS if info.is_old else TASKS)).exists():
        return {}
    rows = _json_lines(root / OLD_TASKS) if info.is_old else _parquet_rows(root / TASKS)
    # pandas keeps the sentence as the index, which has this name in the file.
    named = ((row.get("task_index"), row.get("task", row.get("__index_level_0__"))) for _, row in rows)
    return {number: words for number, words in named if isinstance(number, int) and isinstance(words, str)}


def parquet(path: Path) -> pq.ParquetFile:
    """Return the table at ``path``, opened; raises `ConfigError` if it is no table, or too long."""
    _size_bytes(path)
    try:
        table = pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError("DATASET_FILE", f"{path} is no parquet file ({_said(error)}); copy it again") from None
    if table.metadata.num_rows > MOST:
        raise ConfigError("DATASET_FILE", f"{path}: wanted at most {MOST} rows, got {table.metadata.num_rows}")
    return table


def read_columns(path: Path, names: list[str]) -> pa.Table:
    """Return the columns called ``names`` of the table at ``path``; raises `ConfigError` as `parquet`."""
    try:
        return parquet(path).read(columns=names)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("DATASET_FILE", f"{path} cannot be read ({_said(error)}); copy it again") from None


def _rows(root: Path, info: Info) -> Iterator[EpisodeRow]:
    keys = [key for key, feature in info.features.items() if feature.dtype == "video"]
    paths = sorted(root.glob("meta/episodes/*/*.parquet"))
    if not paths:
        raise ConfigError("DATASET_OPEN", f"{root} is no whole LeRobot data set: it has no meta/episodes/*/*.parquet")
    for path in paths:
        for where, row in _parquet_rows(path):
            at = {name: _whole(row, f"data/{name}", where) for name in ("chunk_index", "file_index")}
            spans = {key: _span(root, info, key, row, where) for key in keys if f"videos/{key}/file_index" in row}
            yield _row(row, where, place(root, info.data_path or DATA_PATH, **at), spans)


def _span(root: Path, info: Info, key: str, row: Mapping[str, Any], where: str) -> VideoSpan:
    at = {name: _whole(row, f"videos/{key}/{name}", where) for name in ("chunk_index", "file_index")}
    begin, end = (row.get(f"videos/{key}/{name}_timestamp") for name in ("from", "to"))
    if not isinstance(begin, int | float) or not isinstance(end, int | float) or not 0 <= begin < end < math.inf:
        raise ConfigError(
            "DATASET_EPISODE", f"{where}: {key} is shown from {begin} to {end} s, which is no span of time"
        )
    return VideoSpan(place(root, info.video_path or VIDEO_PATH, video_key=key, **at), float(begin), float(end))


def _old_rows(root: Path, info: Info) -> Iterator[EpisodeRow]:
    keys = [key for key, feature in info.features.items() if feature.dtype == "video"]
    for where, row in _json_lines(root / OLD_EPISODES):
        index = _whole(row, "episode_index", where)
        at = {"episode_chunk": index // info.chunks_size, "episode_index": index}
        spans = {key: VideoSpan(place(root, info.video_path or OLD_VIDEO_PATH, video_key=key, **at)) for key in keys}
        yield _row(row, where, place(root, info.data_path or OLD_DATA_PATH, **at), spans)


def _row(row: Mapping[str, Any], where: str, data: Path, spans: Mapping[str, VideoSpan]) -> EpisodeRow:
    tasks = row.get("tasks")
    listed = [tasks] if isinstance(tasks, str) else tasks if isinstance(tasks, list) else []
    told = tuple(words for words in listed if isinstance(words, str) and words.strip())
    length = _whole(row, "length", where)
    if not length:
        raise ConfigError("DATASET_EPISODE", f"{where}: an episode of no rows; leave it out")
    facts = {name: row[name] for name in row if "/" not in name}
    return EpisodeRow(_whole(row, "episode_index", where), length, told, data, spans, facts)


def place(root: Path, template: str, **values: int | str) -> Path:
    """Return ``template`` filled with ``values``, under ``root``; raises `ConfigError` if it leads outside."""

    def shown(match: re.Match[str]) -> str:
        value, width = values.get(match[1]), int(match[2] or 0)
        if value is None or width > _WIDEST:
            raise ConfigError(
                "DATASET_PATH",
                f"{root / INFO}: path {template[:200]!r} has {match[0]}; wanted one of {', '.join(values)}, "
                f"of at most {_WIDEST} places",
            )
        return str(value).zfill(width) if isinstance(value, int) else value

    text = _FIELD.sub(shown, template)
    path = PurePosixPath(text)
    if {"{", "}", "\0"} & set(text) or len(text) > LONGEST_PATH or path.is_absolute() or ".." in path.parts:
        raise ConfigError("DATASET_PATH", f"{root / INFO}: path {template[:200]!r} leads to no place in the data set")
    return root / path


def _whole(row: Mapping[str, Any], name: str, where: str) -> int:
    value = row.get(name)
    if isinstance(value, float) and value.is_integer():  # pandas makes floats of whole numbers beside a missing one
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
        raise ConfigError("DATASET_EPISODE", f"{where}: wanted {name} of 0 to {MOST}, got {str(value)[:40]}")
    return value


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for number, line in enumerate(_bytes(path).splitlines(), 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is no object")
                yield f"{path}, line {number}", row
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("DATASET_OPEN", f"{path}: {_said(error)}; copy the data set again") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    names = [name for name in parquet(path).schema_arrow.names if not name.startswith("stats/")]
    for number, row in enumerate(read_columns(path, names).to_pylist()):
        yield f"{path}, row {number}", row


def _bytes(path: Path) -> bytes:
    """Return the text of ``path`` as UTF-8 without a byte-order mark; raises `ConfigError`, OSError, ValueError."""
    if (size := _size_bytes(path)) > LARGEST_BYTES:
        raise ConfigError("DATASET_FILE", f"{path}: wanted at most {LARGEST_BYTES // 10**6} MB, got {size // 10**6} MB")
    return path.read_bytes().decode("utf-8-sig").encode()


def _size_bytes(path: Path) -> int:
    """Return the size of the file at ``path``; raises `ConfigError` if it is missing or no plain file: a pipe never ends."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError("DATASET_FILE", f"cannot read {path}: {reason}; copy the data set again") from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("DATASET_FILE", f"{path} is no plain file; copy the data set again")
    return status.st_size


def _said(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:300] or type(error).__name__
