"""The UR7e with a Robotiq 2F-85 as an arm: 6 joints and a gripper, their limits and kinematics."""

from math import inf, pi

import numpy as np

from .chain import Origin, chain
from .kinematics import serial_kinematics, transform
from .limits import JointLimits, SafetyLimits, Workspace
from .spec import ArmModel

JOINT_NAMES = (
    "shoulder_pan",
    "shoulder_lift",
    "elbow",
    "wrist_1",
    "wrist_2",
    "wrist_3",
    "gripper",
)

ORIGINS: tuple[Origin, ...] = (
    ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.1625), (pi / 2, 0.0, 0.0)),
    ((-0.425, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ((-0.3922, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.1333), (pi / 2, 0.0, 0.0)),
    ((0.0, 0.0, 0.0997), (-pi / 2, 0.0, 0.0)),
)
"""Joint origins from Universal Robots' Denavit-Hartenberg parameters of the UR5e, whose reach the UR7e shares."""

TOOL_LENGTH_M = 0.0996 + 0.163
"""From the last joint to the flange, and from there to between the fingertips of a 2F-85 with its coupling."""
TOOL = transform((0.0, 0.0, TOOL_LENGTH_M), np.diag([1.0, -1.0, -1.0]))
"""Its axes are the base's when the gripper points straight down, as those of the A1's are."""

LIMITS = JointLimits(
    lower=(-2 * pi, -2 * pi, -pi, -2 * pi, -2 * pi, -2 * pi, 0.0),
    upper=(2 * pi, 2 * pi, pi, 2 * pi, 2 * pi, 2 * pi, 1.0),
    velocity=(1.0,) * 6 + (2.0,),
    acceleration=(4.0,) * 6 + (10.0,),
)
"""The maker's ranges; speeds are a third of the maker's 180 degrees a second."""

KINEMATICS = serial_kinematics(ORIGINS, TOOL, LIMITS.lower[:6], LIMITS.upper[:6])

SAFETY = SafetyLimits(
    LIMITS,
    leap=(0.5,) * 6 + (1.0,),
    jump=(0.04,) * 6 + (0.08,),
    tracking=(0.2,) * 6 + (inf,),
    workspace=Workspace(chain(ORIGINS, (0.0, 0.0, TOOL_LENGTH_M)), (-0.95, -0.95, -0.02), (0.95, 0.95, 1.3), 0.25),
)
"""The tool stays above what the arm stands on. With its look-ahead of .1 s the arm is as far behind as it is told per .1 s."""

UR7E = ArmModel("ur7e", JOINT_NAMES, SAFETY, 0.02, KINEMATICS)
