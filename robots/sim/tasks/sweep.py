"""Sweep a handful of crumbs into the green circle with a brush."""

import numpy as np

from ..props import MINT, PURPLE, Pose, Poses, cube, disc
from .task import ATTEMPTS, X_RANGE_M, Y_RANGE_M, Positions, Task

CRUMBS = tuple(f"crumb {number}" for number in range(1, 7))
PILE, CIRCLE = "pile", "circle"
CIRCLE_RADIUS_M = 0.06
CRUMB_HALF_M = 0.008
CRUMB_SPACING_M = 0.026
SHAKEN_M = 0.004
DISTANCE_RANGE_M = (0.11, 0.16)
LARGEST_SLANT_RAD = 0.6


def _arrange(random: np.random.Generator) -> Poses:
    for _ in range(ATTEMPTS):
        x, y = (float(random.uniform(*limits)) for limits in (X_RANGE_M, Y_RANGE_M))
        slant, distance_m = random.uniform(-LARGEST_SLANT_RAD, LARGEST_SLANT_RAD), random.uniform(*DISTANCE_RANGE_M)
        sign = float(random.choice((-1.0, 1.0)))
        circle = Pose(x + sign * distance_m * float(np.cos(slant)), y + sign * distance_m * float(np.sin(slant)))
        if X_RANGE_M[0] < circle.x_m < X_RANGE_M[1] and Y_RANGE_M[0] < circle.y_m < Y_RANGE_M[1]:
            return {PILE: Pose(x, y), CIRCLE: circle, **_spill(random, x, y)}
    raise AssertionError("no room for the circle: the distance does not fit the workspace")


def _spill(random: np.random.Generator, x_m: float, y_m: float) -> Poses:
    """Return crumbs around a point, none of them touching: a grid with every place shaken."""
    grid = CRUMB_SPACING_M * np.array([(row - 0.5, column - 1.0) for row in range(2) for column in range(3)])
    spots = np.array((x_m, y_m)) + grid + random.uniform(-SHAKEN_M, SHAKEN_M, grid.shape)
    turns = random.uniform(0.0, np.pi / 2, len(CRUMBS))
    rows = zip(CRUMBS, spots, turns, strict=True)
    return {name: Pose(float(x), float(y), float(turn)) for name, (x, y), turn in rows}


def _bodies(poses: Poses) -> str:
    crumbs = "".join(cube(name, poses[name], PURPLE, CRUMB_HALF_M) for name in CRUMBS)
    return disc(CIRCLE, poses[CIRCLE], MINT, CIRCLE_RADIUS_M) + crumbs


def _reached(start: Positions, now: Positions, target: str) -> bool:
    return all(bool(np.linalg.norm((now[name] - now[CIRCLE])[:2]) < CIRCLE_RADIUS_M) for name in CRUMBS)


SWEEP = Task("sweep", "sweep the {} into the green circle", ("crumbs",), CRUMBS, _arrange, _bodies, _reached, True)
