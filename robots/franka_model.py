"""A Franka with its hand, Dream4manip's arm, as an arm: 7 joints and a gripper, their limits, kinematics."""

from math import inf, pi

import numpy as np

from .chain import Origin, chain
from .kinematics import serial_kinematics, transform
from .limits import JointLimits, SafetyLimits, Workspace
from .spec import ArmModel

JOINT_NAMES = (*(f"joint_{number}" for number in range(1, 8)), "gripper")

ORIGINS: tuple[Origin, ...] = (
    ((0.0, 0.0, 0.333), (0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (-pi / 2, 0.0, 0.0)),
    ((0.0, -0.316, 0.0), (pi / 2, 0.0, 0.0)),
    ((0.0825, 0.0, 0.0), (pi / 2, 0.0, 0.0)),
    ((-0.0825, 0.384, 0.0), (-pi / 2, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (pi / 2, 0.0, 0.0)),
    ((0.088, 0.0, 0.0), (pi / 2, 0.0, 0.0)),
)
"""Joint origins from the maker's Denavit-Hartenberg parameters (Craig's convention), the same for FER and FR3."""

TOOL_LENGTH_M = 0.107 + 0.1034
"""From the last joint to the flange, and from there to between the fingertips of the hand."""
TURN = np.array([[0.5**0.5, 0.5**0.5, 0.0], [-(0.5**0.5), 0.5**0.5, 0.0], [0.0, 0.0, 1.0]])
"""The hand is mounted turned by -45 degrees."""
TOOL = transform((0.0, 0.0, TOOL_LENGTH_M), TURN @ np.diag([1.0, -1.0, -1.0]))

LIMITS = JointLimits(
    lower=(-2.7437, -1.7628, -2.8973, -3.0421, -2.8065, 0.5445, -2.8973, 0.0),
    upper=(2.7437, 1.7628, 2.8973, -0.1518, 2.8065, 3.7525, 2.8973, 1.0),
    velocity=(1.0,) * 7 + (2.0,),
    acceleration=(4.0,) * 7 + (10.0,),
)
"""What the ranges of FER and FR3 have in common."""

KINEMATICS = serial_kinematics(ORIGINS, TOOL, LIMITS.lower[:7], LIMITS.upper[:7])

SAFETY = SafetyLimits(
    LIMITS,
    leap=(0.5,) * 7 + (1.0,),
    jump=(0.04,) * 7 + (0.08,),
    tracking=(0.2,) * 7 + (inf,),
    workspace=Workspace(chain(ORIGINS, (0.0, 0.0, TOOL_LENGTH_M)), (-0.85, -0.85, -0.02), (0.85, 0.85, 1.2), 0.25),
)

FRANKA = ArmModel("franka", JOINT_NAMES, SAFETY, 0.02, KINEMATICS)
