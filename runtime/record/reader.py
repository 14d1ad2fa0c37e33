"""Reads LeRobot data sets of versions 3.0, 2.1 and 2.0, an episode at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dvgwm.runtime.cameras.image import fit
from dvgwm.runtime.errors import CameraLostError, ConfigError
from dvgwm.runtime.types import DoubleArray, ImageArray

from .features import Columns, camera_key, columns_of, schema_of
from .lerobot import Schema
from .metadata import EpisodeRow, Info, VideoSpan, parquet, read_columns, read_episodes, read_info, read_tasks
from .pictures import MisalignedError, VideoFile, check_spans, frame_numbers, stored_pictures

INDEX, STAMP, TASK = "episode_index", "timestamp", "task_index"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set on disk: its schema, metadata, and one row per present episode.

    ``listed`` has the rows of absent episodes, too: a part of a data set is a data set.
    """

    root: Path
    schema: Schema
    info: Info
    columns: Columns
    rows: tuple[EpisodeRow, ...]
    listed: tuple[EpisodeRow, ...]
    _tasks: dict[int, str] = field(default_factory=dict, repr=False)
    _table: dict[Path, pa.Table] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def absent(self) -> int:
        """The number of episodes that are counted or listed, and have no rows here."""
        return max(len(self.listed), self.info.total_episodes or 0) - len(self)

    def instruction(self, number: int) -> str:
        """Return the instruction of episode ``number``; raises `ConfigError` if it has none."""
        row = self.rows[number]
        if row.tasks:
            return row.tasks[0]
        if TASK in parquet(row.data).schema_arrow.names:
            told = self._tasks.get(self._rows_of(number)[TASK][0].as_py(), "")
            if told.strip():
                return told
        raise ConfigError(
            "DATASET_TASK", f"{self.root}: episode {row.index} has no task; tell what was asked for in it"
        )

    def length(self, number: int) -> int:
        """Return how many rows episode ``number`` is said to have."""
        return self.rows[number].length

    def vectors(self, number: int) -> tuple[DoubleArray, DoubleArray]:
        """Return state and action of episode ``number``, float64 N D; a missing state has width 0.

        Raises `ConfigError` if rows or numbers are not as many as stated, or one is not finite.
        """
        table, state = self._rows_of(number), self.columns.state
        action = self._vector(number, table, self.columns.action, len(self.schema.action_names))
        if state is None:
            return np.empty((len(action), 0)), action
        return self._vector(number, table, state, len(self.schema.state_names)), action

    def stamps_s(self, number: int) -> DoubleArray:
        """Return the time of each row of episode ``number``, in seconds; raises `ConfigError` if they do not rise."""
        table = self._rows_of(number)
        if STAMP not in table.column_names:
            return np.arange(len(table)) / self.schema.fps
        stamps_s = self._vector(number, table, STAMP, 1)[:, 0]
        if len(late := np.flatnonzero(np.diff(stamps_s) <= 0)):
            raise self._wrong(number, f"row {late[0] + 1} is at {stamps_s[late[0] + 1]:g} s, not after row {late[0]}")
        return stamps_s

    def frames(self, number: int, camera: str) -> ImageArray:
        """Return the frame of ``camera`` at each row of episode ``number``, uint8 N H W 3; raises as `videos`."""
        (frames,) = self.videos([number], camera)
        return frames

    def videos(self, numbers: Sequence[int], camera: str, size: tuple[int, int] | None = None) -> Iterator[ImageArray]:
        """Yield the frames of ``camera`` at the rows of each episode, uint8 N H W 3, fitted to ``size`` (height, width) if any.

        Raises `ConfigError` for an unknown camera, and, by the episode, for pictures missing or at other times.
        """
        key = camera_key(self.root, self.info, self.columns, camera)
        film: VideoFile | None = None
        try:
            for number in numbers:
                row = self.rows[number]
                try:
                    if self.info.features[key].dtype == "image":
                        yield self._stacked(number, stored_pictures(self._images(number, key), self.root), size)
                        continue
                    span = row.spans.get(key)
                    if span is None:
                        raise CameraLostError("CAMERA_MISSING", "it has no video")
                    if film is None or film.path != span.path:
                        film = self._film(key, span, film)
                    chosen = frame_numbers(film, span, self.stamps_s(number), self.schema.fps)
                    yield self._stacked(number, film.frames(chosen), size)
                except CameraLostError as error:
                    raise ConfigError("DATASET_VIDEO", self._named(number, f"{camera}: {error}")) from None
                except MisalignedError as error:
                    raise self._wrong(number, f"{camera}: {error}") from None
        finally:
            if film is not None:
                film.close()

    def _film(self, key: str, span: VideoSpan, before: VideoFile | None) -> VideoFile:
        if before is not None:
            before.close()
        film = VideoFile(span.path)
        if not self.info.is_old:
            showing = ((row.index, row.spans[key]) for row in self.listed if key in row.spans)
            sharing = [(index, part) for index, part in showing if part.path == span.path]
            check_spans(film, sharing, self.schema.fps)
        return film

    def _stacked(self, number: int, pictures: Iterator[ImageArray], size: tuple[int, int] | None) -> ImageArray:
        kept: list[ImageArray] = []
        first: tuple[int, ...] | None = None
        for image in pictures:
            first = first or image.shape
            if image.shape != first:
                raise self._wrong(number, f"pictures of {list(first)} and of {list(image.shape)}; wanted one size")
            kept.append(image if size is None else fit(image, *size))
        return np.stack(kept)

    def _images(self, number: int, key: str) -> pa.ChunkedArray:
        row = self.rows[number]
        columns = [name for name in parquet(row.data).schema_arrow.names if name in (INDEX, key)]
        if key not in columns:
            raise self._wrong(number, f"{row.data} has no column {key}")
        table = read_columns(row.data, columns)
        mine = table.filter(pc.equal(table[INDEX], row.index)) if INDEX in columns else table
        if len(mine) != row.length:
            raise self._wrong(number, f"wanted {row.length} pictures in {row.data}, got {len(mine)}")
        return mine[key]

    def _rows_of(self, number: int) -> pa.Table:
        """Return the rows of episode ``number``: as many as it is said to have."""
        row = self.rows[number]
        if row.data not in self._table:
            there = parquet(row.data).schema_arrow.names
            index = [] if self.info.is_old else [INDEX]  # a file of its own needs none
            wanted = [*index, self.columns.action, *filter(None, [self.columns.state])]
            if missing := [name for name in wanted if name not in there]:
                raise self._wrong(
                    number, f"{row.data} has no column {', '.join(missing)}; it has {', '.join(there)[:300]}"
                )
            self._table.clear()
            names = [*wanted, *(name for name in (INDEX, STAMP, TASK) if name in there)]
            self._table[row.data] = read_columns(row.data, list(dict.fromkeys(names)))
        table = self._table[row.data]
        mine = table.filter(pc.equal(table[INDEX], row.index)) if INDEX in table.column_names else table
        others = len(table) - len(mine) if self.info.is_old else 0
        if len(mine) != row.length or others:
            also = f" and {others} of other episodes" if others else ""
            raise self._wrong(number, f"wanted its {row.length} rows in {row.data}, got {len(mine)}{also}")
        return mine

    def _vector(self, number: int, table: pa.Table, name: str, width: int) -> DoubleArray:
        try:
            numbers = _numbers(table[name], width)
        except (pa.ArrowException, ValueError) as error:
            raise self._wrong(number, f"{name}: {error}") from None
        if len(bad := np.flatnonzero(~np.isfinite(numbers).all(axis=1))):
            raise self._wrong(number, f"{name}: row {bad[0]} is not finite: {numbers[bad[0]].tolist()}")
        return numbers

    def _named(self, number: int, text: str) -> str:
        return f"{self.root}: episode {self.rows[number].index}: {text}"

    def _wrong(self, number: int, text: str) -> ConfigError:
        return ConfigError("DATASET_EPISODE", self._named(number, text))


def _numbers(column: pa.ChunkedArray, width: int) -> DoubleArray:
    """Return a column of vectors, or of single numbers, as float64 N D; raises ValueError, `pa.ArrowException` for others."""
    nulls = np.flatnonzero(column.is_null().to_numpy())
    if len(nulls):
        raise ValueError(f"row {nulls[0]} is null")
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        widths = pc.list_value_length(column).to_numpy()
        if len(odd := np.flatnonzero(widths != width)):
            raise ValueError(f"row {odd[0]} has {widths[odd[0]]} numbers; wanted {width}")
        column = pc.list_flatten(column)
    elif width != 1:
        raise ValueError(f"each row is one {column.type}; wanted {width} numbers")
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise ValueError(f"each row is of {column.type}; wanted numbers")
    if column.null_count:
        raise ValueError(f"row {np.flatnonzero(column.is_null().to_numpy())[0] // width} has a null")
    return np.asarray(column.to_numpy(), np.float64).reshape(-1, width)


def open_dataset(root: Path, state: str | None = None, action: str | None = None) -> Dataset:
    """Return the data set at ``root``; ``state`` and ``action`` name the features to read as such.

    Raises `ConfigError` if there is none, its version is unknown, it has no episode, or its metadata contradicts itself.
    """
    info = read_info(root)
    columns = columns_of(root, info, state, action)
    listed = read_episodes(root, info)
    there: dict[Path, bool] = {}
    rows = tuple(row for row in listed if there.setdefault(row.data, row.data.exists()))
    if not rows:
        raise ConfigError(
            "DATASET_ABSENT",
            f"{root}: it tells of {len(listed)} episodes and has the rows of none; copy the data set again",
        )
    return Dataset(root, schema_of(root, info, columns), info, columns, rows, listed, read_tasks(root, info))
