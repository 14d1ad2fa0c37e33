"""Open one of two drawers, told apart by their colours."""

import numpy as np

from ..props import BLUE, RED, Pose, Poses, cabinet, drawer
from .task import Positions, Task

DRAWERS = ("red drawer", "blue drawer")
COLOURS = dict(zip(DRAWERS, (RED, BLUE), strict=True))
WIDTH_M = 0.10
FRONT_X_RANGE_M = (0.285, 0.44)
MIDDLE_Y_RANGE_M = (-0.10, 0.10)
OPEN_M = 0.05


def _arrange(random: np.random.Generator) -> Poses:
    x, y = (float(random.uniform(*limits)) for limits in (FRONT_X_RANGE_M, MIDDLE_Y_RANGE_M))
    side = float(random.choice((-1.0, 1.0)))
    places = {name: Pose(x, y + sign * side * WIDTH_M / 2) for name, sign in zip(DRAWERS, (1, -1), strict=True)}
    return {"cabinet": Pose(x, y), **places}


def _bodies(poses: Poses) -> str:
    drawers = "".join(drawer(name, poses[name], COLOURS[name], WIDTH_M) for name in DRAWERS)
    return cabinet(poses["cabinet"], 2 * WIDTH_M) + drawers


def _reached(start: Positions, now: Positions, target: str) -> bool:
    return bool(np.linalg.norm(now[target] - start[target]) > OPEN_M)


OPEN_DRAWER = Task("open_drawer", "open the {}", DRAWERS, DRAWERS, _arrange, _bodies, _reached)
