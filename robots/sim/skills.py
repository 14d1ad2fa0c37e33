"""How each task is done: the waypoints of the tool from a layout's poses, known exactly."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import atan2, cos, hypot, pi, sin

from .arm import FINGER_TRAVEL_M
from .props import BLOCK_HALF_M, CUBE_HALF_M, HANDLE_REACH_M, Pose
from .route import Waypoint
from .tasks import Layout
from .tasks.push_cube import heading

TRANSIT_HEIGHT_M = 0.088
HOVER_HEIGHT_M = 0.08
CLOSED, OPEN = 0.01, 0.95
"""Gripper openings; a hair above 0, so that no rounding on the way leaves the range."""

SQUEEZE = 0.35
"""How much further than an object's width the gripper is told to close."""

GRASPS = {"banana": (0.015, 0.53), "orange": (0.020, 0.77), "apple": (0.019, 0.73)}
"""Height of the grasp in metres and width as a gripper opening."""

CUBE_WIDTH = CUBE_HALF_M / FINGER_TRAVEL_M
ON_BLOCK_HEIGHT_M = 2 * BLOCK_HALF_M[1] + CUBE_HALF_M + 0.002
RISE_M = 0.025

FINGER_HALF_M = 0.012
PUSH_HEIGHT_M = 0.018
RISE_TO_M = 0.05
PUSH_GAP_M = 0.014
"""Room between the fingers that come down behind a cube and its face."""

HANDLE_HEIGHT_M = 0.05
HANDLE_WIDTH = 0.23
PULL_M = 0.075

BRUSH_HEIGHT_M = 0.0135
SWEEP_BEHIND_M, SWEEP_SHORT_M = 0.06, 0.026

Skill = Callable[[Layout, Waypoint], Sequence[Waypoint]]


def nearest_turn(yaw_rad: float, symmetry_rad: float) -> float:
    """Return the turn nearest to 0 that looks the same under a symmetry of ``symmetry_rad``."""
    return (yaw_rad + symmetry_rad / 2) % symmetry_rad - symmetry_rad / 2


def pick(at: Pose, yaw_rad: float, height_m: float, width: float) -> list[Waypoint]:
    """Return the way to, around and up with something ``width`` (as a gripper opening) wide."""
    closed = max(width - SQUEEZE, CLOSED)
    return [
        Waypoint(at.x_m, at.y_m, HOVER_HEIGHT_M, yaw_rad, OPEN),
        Waypoint(at.x_m, at.y_m, height_m, yaw_rad, OPEN, blend=0.55),
        Waypoint(at.x_m, at.y_m, height_m, yaw_rad, closed, blend=0.2),
        Waypoint(at.x_m, at.y_m, TRANSIT_HEIGHT_M, yaw_rad, closed, blend=0.35),
    ]


def put_fruit_into_bowl(layout: Layout, home: Waypoint) -> Sequence[Waypoint]:
    """Pick the fruit across its length, carry it over the bowl, let go."""
    fruit, bowl = layout.poses[layout.target], layout.poses["bowl"]
    yaw_rad = nearest_turn(fruit.yaw_rad, pi) if layout.target == "banana" else 0.0
    way = pick(fruit, yaw_rad, *GRASPS[layout.target])
    closed = way[-1].opening
    return [
        home,
        *way,
        Waypoint(bowl.x_m, bowl.y_m, TRANSIT_HEIGHT_M, yaw_rad, closed, blend=0.7),
        Waypoint(bowl.x_m, bowl.y_m, TRANSIT_HEIGHT_M, yaw_rad, closed + 0.4, blend=0.2),
    ]


def stack_cube(layout: Layout, home: Waypoint) -> Sequence[Waypoint]:
    """Pick the cube by two faces, carry it over the block, set it down, let go and rise."""
    held, block = layout.poses[layout.target], layout.poses["block"]
    way = pick(held, nearest_turn(held.yaw_rad, pi / 2), CUBE_HALF_M, CUBE_WIDTH)
    closed, yaw_rad = way[-1].opening, way[-1].yaw_rad
    return [
        home,
        *way,
        Waypoint(block.x_m, block.y_m, TRANSIT_HEIGHT_M, yaw_rad, closed, blend=0.7),
        Waypoint(block.x_m, block.y_m, ON_BLOCK_HEIGHT_M, yaw_rad, closed, blend=0.7),
        Waypoint(block.x_m, block.y_m, ON_BLOCK_HEIGHT_M, yaw_rad, closed + 0.45, blend=0.2),
        Waypoint(block.x_m, block.y_m, ON_BLOCK_HEIGHT_M + RISE_M, yaw_rad, closed + 0.45, blend=0.4),
    ]


def push_cube(layout: Layout, home: Waypoint) -> Sequence[Waypoint]:
    """Come down behind the cube and push it straight onto the square."""
    cube, (direction, distance_m) = layout.poses[layout.target], heading(layout.poses, layout.target)
    along = nearest_turn(direction, pi)
    # Forward pushes use both fingers side by side; sideways ones the outer face of the closed gripper.
    yaw_rad, opening = (along, 0.4) if abs(along) <= pi / 4 else (nearest_turn(direction - pi / 2, pi), CLOSED)
    before_m = -CUBE_HALF_M - FINGER_HALF_M - PUSH_GAP_M
    after_m = distance_m - CUBE_HALF_M - FINGER_HALF_M
    return [home, *stroke(cube, direction, (before_m, after_m), PUSH_HEIGHT_M, yaw_rad, opening)]


def stroke(
    origin: Pose, direction: float, reach_m: tuple[float, float], height_m: float, yaw_rad: float, opening: float
) -> list[Waypoint]:
    """Return the way down to one end of a straight stroke over the table, along it and up, so that what was moved is seen.

    The ends are metres from ``origin``.
    """
    ends = [(origin.x_m + cos(direction) * way, origin.y_m + sin(direction) * way) for way in reach_m]
    return [
        Waypoint(*ends[0], HOVER_HEIGHT_M, yaw_rad, opening),
        Waypoint(*ends[0], height_m, yaw_rad, opening, blend=0.5),
        Waypoint(*ends[1], height_m, yaw_rad, opening, blend=0.15),
        Waypoint(*ends[1], RISE_TO_M, yaw_rad, opening, blend=0.1),
    ]


def open_drawer(layout: Layout, home: Waypoint) -> Sequence[Waypoint]:
    """Take the upright handle from above and pull."""
    front = layout.poses[layout.target]
    handle = Pose(front.x_m - HANDLE_REACH_M, front.y_m)
    *down, grasp, _ = pick(handle, 0.0, HANDLE_HEIGHT_M, HANDLE_WIDTH)
    pull = replace(grasp, x_m=handle.x_m - PULL_M, blend=0.15)
    return [home, *down, grasp, pull]


def sweep(layout: Layout, home: Waypoint) -> Sequence[Waypoint]:
    """Put the brush down behind the crumbs and push them all into the circle."""
    pile, circle = layout.poses["pile"], layout.poses["circle"]
    direction = atan2(circle.y_m - pile.y_m, circle.x_m - pile.x_m)
    ends = (-SWEEP_BEHIND_M, hypot(circle.x_m - pile.x_m, circle.y_m - pile.y_m) - SWEEP_SHORT_M)
    return [home, *stroke(pile, direction, ends, BRUSH_HEIGHT_M, nearest_turn(direction, pi), CLOSED)]


SKILLS: Mapping[str, Skill] = {
    "fruit_in_bowl": put_fruit_into_bowl,
    "push_cube": push_cube,
    "stack_cube": stack_cube,
    "open_drawer": open_drawer,
    "sweep": sweep,
}
