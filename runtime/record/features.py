"""The columns of a data set that are its cameras, state and action: by its own metadata, or as asked for."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvgwm.runtime.errors import ConfigError

from .lerobot import ACTION, IMAGE_PREFIX, INDICES, STATE, Schema
from .metadata import Feature, Info

STATES, ACTIONS = (STATE, "state"), (ACTION, "actions")
"""As data sets call them, those of LeRobot first."""
NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NO_VECTORS = (*INDICES, "timestamp")


@dataclass(frozen=True, slots=True)
class Columns:
    """The features to read: cameras by name, state if there is one, action."""

    cameras: Mapping[str, str]
    state: str | None
    action: str


def columns_of(root: Path, info: Info, state: str | None = None, action: str | None = None) -> Columns:
    """Return the features to read of the data set at ``root``; ``state`` and ``action`` choose them by name.

    Raises `ConfigError` with a list of all features if a chosen one is missing, or none can be chosen.
    """
    vectors = [name for name, feature in info.features.items() if feature.dtype in NUMBERS and name not in NO_VECTORS]
    for option, chosen in (("state", state), ("action", action)):
        if chosen is not None and chosen not in vectors:
            raise _unknown(root, info, f"--{option} {chosen}")
    found = action or next((name for name in ACTIONS if name in vectors), None) or _only(vectors, "action")
    if found is None:
        raise _unknown(root, info, "--action NAME")
    return Columns(_cameras(info), state or next((name for name in STATES if name in vectors), None), found)


def camera_key(root: Path, info: Info, columns: Columns, camera: str) -> str:
    """Return the feature of the camera called ``camera``, or by the feature's whole name; raises `ConfigError`."""
    if camera in columns.cameras.values():
        return camera
    if camera not in columns.cameras:
        raise _unknown(root, info, f"--camera {camera}")
    return columns.cameras[camera]


def schema_of(root: Path, info: Info, columns: Columns) -> Schema:
    """Return the data set's schema; raises `ConfigError` for a feature of no size."""
    return Schema(
        robot_type=str(info.robot_type or "unknown")[:100],
        fps=info.fps,
        cameras={name: _size(root, key, info.features[key]) for name, key in columns.cameras.items()},
        state_names=() if columns.state is None else _names(root, columns.state, info.features[columns.state]),
        action_names=_names(root, columns.action, info.features[columns.action]),
    )


def _cameras(info: Info) -> dict[str, str]:
    keys = [
        key for key, feature in info.features.items() if feature.dtype in ("video", "image") and not feature.is_depth
    ]
    short = [key.removeprefix(IMAGE_PREFIX) for key in keys]
    return {name if short.count(name) == 1 else key: key for name, key in zip(short, keys, strict=True)}


def _only(names: Iterable[str], part: str) -> str | None:
    """Return the only one of ``names`` with ``part`` in it; None if there are more."""
    found = [name for name in names if part in name.lower()]
    return found[0] if len(found) == 1 else None


def _unknown(root: Path, info: Info, wanted: str) -> ConfigError:
    cameras = ", ".join(_cameras(info)) or "none"
    numbers = (
        f"{name} ({math.prod(feature.shape)})"
        for name, feature in info.features.items()
        if feature.dtype in NUMBERS and name not in NO_VECTORS
    )
    return ConfigError(
        "DATASET_FEATURE",
        f"{root}: wanted {wanted} among its features; cameras: {cameras}; for state and action: {', '.join(numbers) or 'none'}",
    )


def _size(root: Path, key: str, feature: Feature) -> tuple[int, int]:
    """Return height and width of a camera's pictures, stated before or behind their channels."""
    named = dict(zip(_flat(feature.names), feature.shape, strict=False))
    if "height" in named and "width" in named:
        size = named["height"], named["width"]
    elif len(feature.shape) == 3:
        size = feature.shape[1:] if feature.shape[0] in (1, 3) and feature.shape[2] not in (1, 3) else feature.shape[:2]
    else:
        size = 0, 0
    if min(size) < 1:
        raise ConfigError(
            "DATASET_FEATURE", f"{root}: camera {key} has the shape {list(feature.shape)}, which is no picture's"
        )
    return size[0], size[1]


def _names(root: Path, key: str, feature: Feature) -> tuple[str, ...]:
    """Return one name for each of a vector's numbers, or its indices if the names do not fit."""
    if not 0 < (width := math.prod(feature.shape)) <= 10_000:
        raise ConfigError("DATASET_FEATURE", f"{root}: {key} has the shape {list(feature.shape)}, which is no vector's")
    names = _flat(feature.names)
    return names if len(set(names)) == len(names) == width else tuple(map(str, range(width)))


def _flat(names: Any) -> tuple[str, ...]:
    """Return the texts in ``names``, however they are nested."""
    if isinstance(names, Mapping):
        names = list(names.values())
    if isinstance(names, list | tuple):
        return tuple(text for each in names for text in _flat(each))
    return (names,) if isinstance(names, str) else ()
