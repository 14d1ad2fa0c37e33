"""Scenes to calibrate and compare engines on: recorded, or drawn at random."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dvgwm.runtime.bundle.manifest import InputContract, Manifest
from dvgwm.runtime.cameras.image import fit
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.record.reader import Dataset, open_dataset
from dvgwm.runtime.types import Observation

CALIBRATING = 16
"""Scenes that ranges are taken from."""
HELD_OUT = 2
"""Scenes that they are not taken from: one that quantised engines are judged on, another as the control."""
_APART = 0.618034, 0.414214
"""Shares of all episodes, and of an episode, that each scene is further on than the one before: none is near another."""


@dataclass(frozen=True, slots=True)
class ExampleScene:
    """An observation and an instruction."""

    observation: Observation
    instruction: str


def drawn(manifest: Manifest, seed: int) -> ExampleScene:
    """Return a picture of random squares for the bundle's camera."""
    contract, action = manifest.input, manifest.action
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (contract.height_px // 8, contract.width_px // 8, 3), np.uint8)
    image = np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1))
    return ExampleScene(
        Observation({contract.camera: image}, np.zeros(len(action.names)), 0.0), "put the banana into the bowl"
    )


def recorded(root: Path, contract: InputContract, count: int = CALIBRATING + HELD_OUT) -> Iterator[ExampleScene]:
    """Yield ``count`` scenes of the LeRobot data set at ``root``, spread over its episodes and over each one's time.

    Raises `ConfigError` if there is no data set, or none of its cameras is the bundle's.
    """
    dataset = open_dataset(root)
    camera = camera_of(dataset, contract, root)
    for index in range(count):
        number, share = int(len(dataset) * (index * _APART[0] % 1.0)), index * _APART[1] % 1.0
        frames = dataset.frames(number, camera)
        at = int(len(frames) * share)
        state, _ = dataset.vectors(number)
        image = fit(frames[at], contract.height_px, contract.width_px)
        yield ExampleScene(Observation({contract.camera: image}, state[at], 0.0), dataset.instruction(number))


def camera_of(dataset: Dataset, contract: InputContract, root: Path) -> str:
    """Return the data set's camera with the contract's name, or its only one; raises `ConfigError` if there are others."""
    cameras = tuple(dataset.schema.cameras)
    if contract.camera in cameras:
        return contract.camera
    if len(cameras) != 1:
        raise ConfigError(
            "CALIBRATE_CAMERA",
            f"{root}: wanted a camera called {contract.camera!r}, or one only; got {', '.join(cameras) or 'none'}",
        )
    return cameras[0]
