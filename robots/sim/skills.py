"""How each task is done: the waypoints of the tool from a layout's poses, known exactly."""

from collections.abc import Callable, Mapping, Sequence
from math import pi

from .props import Pose
from .route import Waypoint
from .tasks import Layout

TRANSIT_HEIGHT_M = 0.095
HOVER_HEIGHT_M = 0.085
WIDE, OPEN = 1.0, 0.95
SQUEEZE = 0.35
"""How much further than an object's width the gripper is told to close."""

Skill = Callable[[Layout, Waypoint], Sequence[Waypoint]]


def nearest_turn(yaw_rad: float, symmetry_rad: float) -> float:
    """Return the turn nearest to 0 that looks the same under a symmetry of ``symmetry_rad``."""
    return (yaw_rad + symmetry_rad / 2) % symmetry_rad - symmetry_rad / 2


def pick(at: Pose, yaw_rad: float, height_m: float, width: float) -> list[Waypoint]:
    """Return the way to, around and up with something ``width`` (as a gripper opening) wide."""
    closed = width - SQUEEZE
    return [
        Waypoint(at.x_m, at.y_m, HOVER_HEIGHT_M, yaw_rad, OPEN),
        Waypoint(at.x_m, at.y_m, height_m, yaw_rad, OPEN, blend=0.4),
        Waypoint(at.x_m, at.y_m, height_m, yaw_rad, closed, blend=0.2),
        Waypoint(at.x_m, at.y_m, TRANSIT_HEIGHT_M, yaw_rad, closed, blend=0.3),
    ]


GRASPS = {"banana": (0.015, 0.53), "orange": (0.020, 0.77), "apple": (0.019, 0.73)}
"""Height of the grasp in metres and width as a gripper opening."""


def put_fruit_into_bowl(layout: Layout, home: Waypoint) -> Sequence[Waypoint]:
    """Pick the fruit across its length, carry it over the bowl, let go."""
    fruit, bowl = layout.poses[layout.target], layout.poses["bowl"]
    yaw_rad = nearest_turn(fruit.yaw_rad, pi) if layout.target == "banana" else 0.0
    way = pick(fruit, yaw_rad, *GRASPS[layout.target])
    closed = way[-1].opening
    return [
        home,
        *way,
        Waypoint(bowl.x_m, bowl.y_m, TRANSIT_HEIGHT_M, yaw_rad, closed, blend=0.45),
        Waypoint(bowl.x_m, bowl.y_m, TRANSIT_HEIGHT_M, yaw_rad, closed + 0.45, blend=0.1),
    ]


SKILLS: Mapping[str, Skill] = {"fruit_in_bowl": put_fruit_into_bowl}
