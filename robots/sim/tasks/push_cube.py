"""Push one of three cubes onto the gray square."""

import numpy as np

from ..props import BLUE, GREEN, RED, SLATE, Pose, Poses, area, cube
from .task import Positions, Task, scatter

CUBES = ("red cube", "green cube", "blue cube")
COLOURS = dict(zip(CUBES, (RED, GREEN, BLUE), strict=True))
GOAL = "square"
GOAL_HALF_M = 0.045
NEAR_GOAL_M = 0.03
RADII_M = {**dict.fromkeys(CUBES, 0.036), GOAL: 0.055}
PUSH_RANGE_M = (0.09, 0.19)
LANE_M = 0.062
"""How far other cubes stay from the way that a cube is pushed along."""

BEHIND_M = 0.06
"""Where the gripper comes down behind a cube, for the lane."""

SKEW_RAD = 0.12


def heading(poses: Poses, name: str) -> tuple[float, float]:
    """Return the direction from a cube to the square in radians and its distance in metres."""
    x, y = poses[GOAL].x_m - poses[name].x_m, poses[GOAL].y_m - poses[name].y_m
    return float(np.arctan2(y, x)), float(np.hypot(x, y))


def _clear(poses: Poses) -> bool:
    return all(_lane_is_clear(poses, name) for name in CUBES)


def _lane_is_clear(poses: Poses, name: str) -> bool:
    direction, distance_m = heading(poses, name)
    if not PUSH_RANGE_M[0] < distance_m < PUSH_RANGE_M[1]:
        return False
    along = np.array((np.cos(direction), np.sin(direction)))
    cube_at = np.array((poses[name].x_m, poses[name].y_m))
    for other in CUBES:
        gap = np.array((poses[other].x_m, poses[other].y_m)) - cube_at
        nearest = np.clip(gap @ along, -BEHIND_M, distance_m) * along
        if other != name and float(np.linalg.norm(gap - nearest)) < LANE_M:
            return False
    return True


def _arrange(random: np.random.Generator) -> Poses:
    poses = dict(scatter(random, RADII_M, turn_rad=SKEW_RAD, accept=_clear))
    for name in CUBES:  # a cube shows a face to the side it is pushed from
        poses[name] = Pose(poses[name].x_m, poses[name].y_m, heading(poses, name)[0] + poses[name].yaw_rad)
    return {**poses, GOAL: Pose(poses[GOAL].x_m, poses[GOAL].y_m)}


def _bodies(poses: Poses) -> str:
    square = area(GOAL, poses[GOAL], SLATE, GOAL_HALF_M)
    return square + "".join(cube(name, poses[name], COLOURS[name]) for name in CUBES)


def _reached(start: Positions, now: Positions, target: str) -> bool:
    return bool(np.linalg.norm((now[target] - now[GOAL])[:2]) < NEAR_GOAL_M)


PUSH_CUBE = Task("push_cube", "push the {} onto the gray square", CUBES, CUBES, _arrange, _bodies, _reached)
