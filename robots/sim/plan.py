"""From a layout to the expert's actions: the route at 10 Hz as tool poses and as joints, slow enough for the gate."""

from dataclasses import dataclass

import numpy as np

from dvgwm.runtime.types import DoubleArray

from ..kinematics import SerialKinematics
from ..limits import JointLimits
from .route import Route, Waypoint, route_through
from .skills import SKILLS
from .tasks import Layout

FRAME_S = 0.1
FEWEST_ACTIONS = 48
MOST_ACTIONS = 97
SETTLE_S = 0.25
VELOCITY_SHARE = 0.9
ACCELERATION_SHARE = 0.75
"""Parts of the limits that the 10 Hz path uses: the rest is left to the spline between its points."""

STRETCH_STEP = 1.05


@dataclass(frozen=True, slots=True)
class ExpertPlan:
    """Actions 0.1 s apart, the first due 0.1 s after the start.

    ``tool`` is float64 [N, 7]: x, y, z in metres, rotation vector, gripper opening 0..1. ``joints`` is float64 [N, 7]:
    6 joints in radians, gripper opening.
    """

    tool: DoubleArray
    joints: DoubleArray


def plan(layout: Layout, start: DoubleArray, kinematics: SerialKinematics, limits: JointLimits) -> ExpertPlan:
    """Return the expert's actions for a layout from the joints at the start (6 in radians, gripper opening)."""
    pose = kinematics.forward(start)
    home = Waypoint(float(pose[0]), float(pose[1]), float(pose[2]), 0.0, float(start[6]))
    route = route_through(SKILLS[layout.task.name](layout, home))
    stretch = 1.0
    while True:
        tool = _tool_actions(route, stretch)
        joints = _joint_actions(tool, start, kinematics)
        if _excess(np.concatenate((start[None], joints)), limits) <= 1.0:
            return ExpertPlan(tool, joints)
        stretch *= STRETCH_STEP


def _tool_actions(route: Route, stretch: float) -> DoubleArray:
    count = int(np.ceil((route.duration_s * stretch + SETTLE_S) / FRAME_S - 1e-9))
    times_s = FRAME_S * np.arange(1, min(max(count, FEWEST_ACTIONS), MOST_ACTIONS) + 1)
    x, y, z, turn, opening = route.sample(times_s / stretch).T
    level = np.zeros_like(x)
    return np.stack((x, y, z, level, level, turn, opening), axis=1)


def _joint_actions(tool: DoubleArray, start: DoubleArray, kinematics: SerialKinematics) -> DoubleArray:
    joints, rows = start[:6], []
    for action in tool:
        joints, reached = kinematics.inverse(action[:6], joints)
        assert reached, f"the expert's pose {action[:6]} is out of reach"
        rows.append(np.append(joints, action[6]))
    return np.stack(rows)


def _excess(path: DoubleArray, limits: JointLimits) -> float:
    """Return by how much the 10 Hz path exceeds its share of the velocity and acceleration limits (1: just inside)."""
    velocity = np.diff(path, axis=0, prepend=path[:1]) / FRAME_S
    acceleration = np.diff(velocity, axis=0) / FRAME_S
    return float(
        max(
            (np.abs(velocity) / limits.velocity).max() / VELOCITY_SHARE,
            (np.abs(acceleration) / limits.acceleration).max() / ACCELERATION_SHARE,
        )
    )
