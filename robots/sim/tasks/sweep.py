"""Sweep a handful of crumbs into the green circle with a brush."""

import numpy as np

from dvgwm.runtime.types import DoubleArray

from ..props import MINT, PURPLE, Pose, Poses, cube, disc
from .task import ATTEMPTS, X_RANGE_M, Y_RANGE_M, Positions, Task

CRUMBS = tuple(f"crumb {number}" for number in range(1, 7))
PILE, CIRCLE = "pile", "circle"
CIRCLE_RADIUS_M = 0.06
CRUMB_HALF_M = 0.008
PILE_HALF_M = 0.031
APART_M = 0.024
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
    """Return crumbs around a point, none of them touching, dropped one after another."""
    spots: list[DoubleArray] = []
    for _ in range(ATTEMPTS):
        spot = random.uniform(-PILE_HALF_M, PILE_HALF_M, 2)
        if all(np.linalg.norm(spot - other) > APART_M for other in spots):
            spots.append(spot)
        if len(spots) == len(CRUMBS):
            turns = random.uniform(0.0, np.pi / 2, len(CRUMBS))
            rows = zip(CRUMBS, spots, turns, strict=True)
            return {name: Pose(x_m + float(dx), y_m + float(dy), float(turn)) for name, (dx, dy), turn in rows}
    raise AssertionError("no room for the crumbs: the pile is too small")


def _bodies(poses: Poses) -> str:
    crumbs = "".join(cube(name, poses[name], PURPLE, CRUMB_HALF_M) for name in CRUMBS)
    return disc(CIRCLE, poses[CIRCLE], MINT, CIRCLE_RADIUS_M) + crumbs


def _reached(start: Positions, now: Positions, target: str) -> bool:
    return all(bool(np.linalg.norm((now[name] - now[CIRCLE])[:2]) < CIRCLE_RADIUS_M) for name in CRUMBS)


SWEEP = Task("sweep", "sweep the {} into the green circle", ("crumbs",), CRUMBS, _arrange, _bodies, _reached, True)
