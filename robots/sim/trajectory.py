"""From a layout to the expert's actions: the route at 10 Hz as tool poses and as joints, slow enough for the gate."""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from dvgwm.runtime.types import DoubleArray

from .. import player
from ..kinematics import SerialKinematics
from ..limits import JointLimits
from .route import Route, Waypoint, route_through
from .skills import SKILLS
from .tasks import Layout

FRAME_S = 0.1
TICK_S = 0.02
FEWEST_ACTIONS = 48
MOST_ACTIONS = 97
SETTLE_S = 0.15
SHARE = 0.98
"""The part of the velocity and acceleration limits that is used: the servo starts from a measured position."""

STRETCH_STEP = 1.03


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Actions 0.1 s apart, the first due 0.1 s after the start.

    ``tool`` is float64 [N, 7]: x, y, z in metres, rotation vector, gripper opening 0..1. ``joints`` is float64 [N, 7]:
    6 joints in radians, gripper opening.
    """

    tool: DoubleArray
    joints: DoubleArray


def expert_trajectory(
    layout: Layout, start: DoubleArray, kinematics: SerialKinematics, limits: JointLimits
) -> Trajectory:
    """Return the expert's actions for a layout from the joints at the start (6 in radians, gripper opening)."""
    start = np.clip(start, limits.lower, limits.upper)
    pose = kinematics.forward(start)
    home = Waypoint(float(pose[0]), float(pose[1]), float(pose[2]), 0.0, float(start[6]))
    route = route_through(SKILLS[layout.task.name](layout, home))
    stretch = 1.0
    while True:
        tool = _tool_actions(route, stretch)
        joints = _joint_actions(tool, start, kinematics)
        excess = _excess(start, joints, limits)
        if excess <= 1.0:
            return Trajectory(tool, joints)
        stretch *= max(STRETCH_STEP, sqrt(excess))  # acceleration falls with its square: never too far


def due_times_s(count: int) -> DoubleArray:
    """Return when each of ``count`` actions is due after the start."""
    return FRAME_S * np.arange(1, count + 1, dtype=np.float64)


def _tool_actions(route: Route, stretch: float) -> DoubleArray:
    count = int(np.ceil((route.duration_s * stretch + SETTLE_S) / FRAME_S - 1e-9))
    times_s = due_times_s(min(max(count, FEWEST_ACTIONS), MOST_ACTIONS))
    x, y, z, turn, opening = route.sample(times_s / stretch).T
    level = np.zeros_like(x)
    return np.stack((x, y, z, level, level, turn, np.clip(opening, 0.0, 1.0)), axis=1)


def _joint_actions(tool: DoubleArray, start: DoubleArray, kinematics: SerialKinematics) -> DoubleArray:
    joints, rows = start[:6], []
    for action in tool:
        joints, reached = kinematics.inverse(action[:6], joints)
        assert reached, f"the expert's pose {action[:6]} is out of reach"
        rows.append(np.append(joints, action[6]))
    return np.stack(rows)


def _excess(start: DoubleArray, joints: DoubleArray, limits: JointLimits) -> float:
    """Return by how much the played path exceeds the velocity and acceleration limits (1: just inside)."""
    due_s = tuple(map(float, due_times_s(len(joints))))
    curve = player.track(0.0, tuple(start), (0.0,) * len(start), due_s, [tuple(row) for row in joints])
    assert curve is not None, "the first action is ahead of the start"
    ticks_s = TICK_S * np.arange(round(due_s[-1] / TICK_S) + 1, dtype=np.float64)
    path = _sampled(curve, ticks_s)
    velocity = np.diff(path, axis=0, prepend=path[:1]) / TICK_S
    acceleration = np.diff(velocity, axis=0) / TICK_S
    return float(
        max((np.abs(velocity) / limits.velocity).max(), (np.abs(acceleration) / limits.acceleration).max()) / SHARE
    )


def _sampled(curve: player.Track, times_s: DoubleArray) -> DoubleArray:
    """Return what `player.sample` plays at each of ``times_s``, all at once: most of its making would go into them."""
    ends, points, slopes = (np.asarray(rows) for rows in (curve.times_s, curve.positions, curve.slopes))
    times_s = np.minimum(times_s, curve.end_s)
    left = np.clip(np.searchsorted(ends, times_s, "right") - 1, 0, len(ends) - 2)
    width = (ends[left + 1] - ends[left])[:, None]
    u = (times_s - ends[left])[:, None] / width
    begun = (1 + u * u * (2 * u - 3)) * points[left] + u * (1 - u) ** 2 * width * slopes[left]
    return np.asarray(
        begun + u * u * (3 - 2 * u) * points[left + 1] + u * u * (u - 1) * width * slopes[left + 1], np.float64
    )
