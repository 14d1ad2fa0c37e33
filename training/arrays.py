"""Raw frames and actions of a data set as memory-mapped arrays beside it: what the loops read."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.files import write_atomic, write_json
from dvgwm.runtime.types import DoubleArray, FloatArray, ImageArray

INDEX = "arrays/episodes.json"
ACTIONS = "actions"


@dataclass(frozen=True, slots=True)
class Arrays:
    """The episodes of a data set: each has ``lengths[n]`` frames; action n of an episode leads from frame n to n + 1."""

    root: Path
    camera: str
    lengths: tuple[int, ...]
    instructions: tuple[str, ...]
    per_file: int
    _open: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.lengths)

    def frames(self, number: int) -> ImageArray:
        """Return the frames of episode ``number``, uint8 N H W 3, not copied from the disk's map."""
        return self._rows(self.camera, number)

    def actions(self, number: int) -> FloatArray:
        """Return the actions of episode ``number``, float32 N D in the data set's units."""
        return self._rows(ACTIONS, number)

    def _rows(self, name: str, number: int) -> np.ndarray:
        index, first = number // self.per_file, number - number % self.per_file
        start = sum(self.lengths[first:number])
        path = f"arrays/{name}/file-{index:04d}.npy"
        if path not in self._open:
            self._open[path] = np.load(self.root / path, mmap_mode="r")
        return self._open[path][start : start + self.lengths[number]]


def open_arrays(root: Path, camera: str) -> Arrays:
    """Return the arrays of the data set at ``root``; raises `ConfigError` where there are none of that camera."""
    try:
        index = json.loads((root / INDEX).read_text("utf-8"))
    except OSError:
        raise ConfigError(
            "ARRAYS_MISSING", f"{root} has no {INDEX}; make it with `dvgwm-train data --out {root}`, or `imagine`"
        ) from None
    if not (root / "arrays" / camera).is_dir():
        raise ConfigError("ARRAYS_CAMERA", f"{root} has no arrays of a camera called {camera!r}; make them from it")
    return Arrays(root, camera, tuple(index["lengths"]), tuple(index["instructions"]), int(index["per_file"]))


def save_arrays(
    root: Path, index: int, frames: Mapping[str, Sequence[ImageArray]], actions: Sequence[DoubleArray]
) -> None:
    """Write the ``index``-th file of every camera's frames and of the actions, each atomic; one entry per episode."""
    for camera, episodes in frames.items():
        _save(root / f"arrays/{camera}/file-{index:04d}.npy", np.concatenate(episodes))
    _save(root / f"arrays/{ACTIONS}/file-{index:04d}.npy", np.concatenate(actions).astype(np.float32))


def save_index(root: Path, episodes: Sequence[tuple[int, str]], per_file: int) -> None:
    """Write the length and the instruction of every episode; until then there are no arrays."""
    lengths, instructions = zip(*episodes, strict=True)
    write_json(root / INDEX, {"per_file": per_file, "lengths": list(lengths), "instructions": list(instructions)})


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomic(path, buffer.getvalue())
