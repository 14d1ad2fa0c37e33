"""Demonstrations: the scripted expert at work through motion and gate, recorded ten times a second."""

from dataclasses import dataclass

import numpy as np

from dvgwm.runtime.types import ActionChunk, ArmEvent, DoubleArray, Observation

from ..a1_model import A1, KINEMATICS, LIMITS
from ..arm import VirtualArm
from ..spec import SimulationOptions
from .driver import MujocoRobot
from .trajectory import due_times_s, expert_trajectory


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One episode of the expert.

    ``observations`` holds N + 1 of them, 0.1 s apart (empty if nothing was rendered); action n leads from observation
    n to n + 1. ``tool_actions`` is float64 [N, 7]: x, y, z in metres, rotation vector, gripper opening 0..1;
    ``joint_actions`` is float64 [N, 7]: 6 joints in radians, gripper opening. ``target`` names what was asked for and
    ``moved`` what was moved; ``events`` is empty where the gate let everything pass.
    """

    instruction: str
    target: str
    observations: tuple[Observation, ...]
    tool_actions: DoubleArray
    joint_actions: DoubleArray
    solved: bool
    moved: tuple[str, ...]
    events: tuple[ArmEvent, ...]


def demonstrate(options: SimulationOptions, render: bool = True) -> Demonstration:
    """Return one episode of the expert at the task and layout of ``options``, solved or not.

    It has 48 actions, up to 97 where the way is longer than that. Raises `ConfigError` for an unknown task.
    """
    observed: list[Observation] = []
    robot = MujocoRobot(options)
    arm = VirtualArm(A1, robot, (lambda observation, _: observed.append(observation)) if render else None)
    try:
        trajectory = expert_trajectory(robot.layout, np.array(robot.positions()), KINEMATICS, LIMITS)
        if render:
            observed.append(arm.observe())
        # The trajectory's own joints: the tool's poses would be solved for them a second time.
        arm.play(ActionChunk(trajectory.joints, arm.time_s + due_times_s(len(trajectory.joints)), "joint"))
        return Demonstration(
            instruction=robot.instruction,
            target=robot.layout.target,
            observations=tuple(observed),
            tool_actions=trajectory.tool,
            joint_actions=trajectory.joints,
            solved=robot.solved(),
            moved=robot.moved(),
            events=tuple(arm.events()),
        )
    finally:
        arm.close()
