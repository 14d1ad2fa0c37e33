"""Pick one of three fruits and put it into the bowl."""

import numpy as np

from ..props import BOWL_RADIUS_M, CRIMSON, ORANGE, STEEL, YELLOW, Poses, ball, banana, bowl
from .task import Positions, Task, scatter, within

FRUITS = ("banana", "orange", "apple")
RADII_M = {"banana": 0.042, "orange": 0.036, "apple": 0.036, "bowl": 0.073}
RESTING_HEIGHT_M = 0.045
CARRY_M = 0.18


def _arrange(random: np.random.Generator) -> Poses:
    return scatter(random, RADII_M, turn_rad=0.6, accept=lambda poses: within(poses, "bowl", CARRY_M))


def _bodies(poses: Poses) -> str:
    return (
        bowl(poses["bowl"], STEEL)
        + banana("banana", poses["banana"], YELLOW)
        + ball("orange", poses["orange"], ORANGE, 0.023)
        + ball("apple", poses["apple"], CRIMSON, 0.022, stalk=True)
    )


def _reached(start: Positions, now: Positions, target: str) -> bool:
    offset = now[target] - now["bowl"]
    return bool(np.hypot(offset[0], offset[1]) < BOWL_RADIUS_M - 0.01 and offset[2] < RESTING_HEIGHT_M)


FRUIT_IN_BOWL = Task("fruit_in_bowl", "put the {} into the bowl", FRUITS, FRUITS, _arrange, _bodies, _reached)
