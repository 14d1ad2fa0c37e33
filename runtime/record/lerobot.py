"""The layout of LeRobot data sets: names of files, and their metadata."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dvgwm.runtime.types import DoubleArray, ImageArray

VERSION = "v3.0"
OLD_VERSIONS = ("v2.0", "v2.1")
"""Those with files of their own for every episode."""
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
OLD_EPISODES, OLD_TASKS = "meta/episodes.jsonl", "meta/tasks.jsonl"
OLD_DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
OLD_VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CHUNK_FILES = 1000
STATE, ACTION = "observation.state", "action"
IMAGE_PREFIX = "observation.images."


@dataclass(frozen=True, slots=True)
class Schema:
    """The features of a data set: cameras by name with (height, width), and the names of state and action.

    Without a state its names are empty.
    """

    robot_type: str
    fps: float
    cameras: Mapping[str, tuple[int, int]]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode of N frames, ``fps`` a second.

    ``frames`` maps cameras to uint8 N H W 3, ``state`` and ``action`` are N D; action n leads from frame n to n + 1, the
    last one is held. ``extras`` are facts of the whole episode, one column of the episode table each.
    """

    instruction: str
    frames: Mapping[str, ImageArray]
    state: DoubleArray
    action: DoubleArray
    extras: Mapping[str, int | float | str | bool]


def features_of(schema: Schema) -> dict[str, Any]:
    """Return the features table of ``meta/info.json``."""
    images = {f"{IMAGE_PREFIX}{name}": _video(size, schema.fps) for name, size in schema.cameras.items()}
    vectors = {name: _vector("float32", names) for name, names in vectors_of(schema).items()}
    return images | vectors | {"timestamp": _scalar("float32")} | {name: _scalar("int64") for name in INDICES}


def vectors_of(schema: Schema) -> dict[str, tuple[str, ...]]:
    """Return the names of the numbers of state, if there is one, and action, by feature."""
    return {name: names for name, names in ((STATE, schema.state_names), (ACTION, schema.action_names)) if names}


INDICES = ("frame_index", "episode_index", "index", "task_index")


def _vector(dtype: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [len(names)], "names": list(names)}


def _scalar(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [1], "names": None}


def _video(size: tuple[int, int], fps: float) -> dict[str, Any]:
    height, width = size
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
        },
    }
