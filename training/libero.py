"""LIBERO's demonstrations (HDF5, one file a task) as episodes: no-ops removed, upright, resized, split by task."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dvgwm.runtime.cameras.image import fit
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.record.lerobot import Episode, Schema
from dvgwm.runtime.types import DoubleArray

FPS = 20.0
CAMERA = "agentview"
STILL = 1e-4
"""An action whose motion is smaller than this does nothing, unless it moves the gripper."""

TEST_EVERY = 5
STATE_NAMES = tuple(f"joint_{n}" for n in range(1, 8))
ACTION_NAMES = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")


def read_libero(folder: Path, size: tuple[int, int]) -> tuple[Schema, list[Path], list[Path]]:
    """Return the schema of the demonstrations under ``folder``, and the files to learn from and to test on.

    Every fifth task is for tests (DVG-WM: 8:2 by task). Raises `ConfigError` if there are none.
    """
    files = sorted(folder.glob("**/*.hdf5"))
    if not files:
        raise ConfigError("LIBERO_FILES", f"wanted LIBERO's *.hdf5 files under {folder}, found none")
    held = files[TEST_EVERY - 1 :: TEST_EVERY]
    schema = Schema("panda", FPS, {CAMERA: size}, STATE_NAMES, ACTION_NAMES)
    return schema, [file for file in files if file not in held], held


def demonstrations(files: list[Path], size: tuple[int, int]) -> Iterator[Episode]:
    """Yield the episodes of ``files``; one without any motion is left out."""
    import h5py

    for path in files:
        try:
            with h5py.File(path) as file:
                for name in sorted(file["data"], key=lambda name: int(name.rsplit("_", 1)[1])):
                    episode = _episode(file["data"][name], _instruction(file["data"], path), size)
                    if episode is not None:
                        yield episode
        except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ConfigError("LIBERO_FILE", f"{path} is no LIBERO file ({error}); download it again") from None


def acts(actions: DoubleArray) -> np.ndarray:
    """Return a mask of the actions N 7 with an effect: motion, or a change of the gripper (Kim et al. 2024, OpenVLA)."""
    gripper = np.concatenate([[False], np.diff(actions[:, 6]) != 0])
    return np.asarray((np.linalg.norm(actions[:, :6], axis=1) >= STILL) | gripper)


def _episode(demo: Any, instruction: str, size: tuple[int, int]) -> Episode | None:
    actions = np.asarray(demo["actions"], np.float64)
    kept = np.flatnonzero(acts(actions))
    if not len(kept):
        return None
    # The renderer's rows begin at the bottom.
    images = np.asarray(demo["obs"]["agentview_rgb"])[kept, ::-1]
    frames = np.stack([fit(image, *size) for image in images])
    return Episode(
        instruction, {CAMERA: frames}, np.asarray(demo["obs"]["joint_states"], np.float64)[kept], actions[kept], {}
    )


def _instruction(data: Any, path: Path) -> str:
    problem = json.loads(data.attrs["problem_info"]) if "problem_info" in data.attrs else {}
    instruction = problem.get("language_instruction") or path.stem.removesuffix("_demo").replace("_", " ")
    return str(instruction[0] if isinstance(instruction, list) else instruction).strip('"').lower()
