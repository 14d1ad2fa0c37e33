"""The Galaxea A1 as an arm: 6 joints and a parallel gripper, their limits and kinematics."""

from math import inf, pi

import numpy as np

from .chain import Origin, chain
from .kinematics import serial_kinematics, transform
from .limits import JointLimits, SafetyLimits, Workspace
from .spec import ArmModel

JOINT_NAMES = ("joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "joint_6", "gripper")

ORIGINS: tuple[Origin, ...] = (
    ((-0.0011147, 0.0, 0.0892), (0.0, 0.0, pi)),
    ((0.0, -0.00004, 0.0615), (pi / 2, 0.0, 0.0)),
    ((0.34928, 0.02, 0.0), (0.0, 0.0, pi / 2)),
    ((0.07, -0.00395, -0.00004), (-pi / 2, pi / 2, 0.0)),
    ((0.0, 0.0, 0.2776), (-pi / 2, 0.0, pi)),
    ((0.0, -0.1575, -0.00023266), (pi / 2, 0.0, 0.0)),
)
"""Joint origins of the vendor's URDF (A1 SDK, September 2024); every joint turns about its z axis."""

TOOL_LENGTH_M = 0.14
TOOL = transform((0.0, 0.0, TOOL_LENGTH_M), np.diag([1.0, -1.0, -1.0]))
"""From joint 6 to the point between the fingertips. Its axes are the base's when the gripper points straight down, so
that rotation vectors of grasps from above stay near zero; the fingers close along its y axis."""

LIMITS = JointLimits(
    lower=(-2.8798, 0.0, -3.3161, -2.8798, -1.6581, -1.8326, 0.0),
    upper=(2.8798, 3.1415, 0.0, 2.8798, 1.6581, 1.8326, 1.0),
    velocity=(1.0,) * 6 + (2.0,),
    acceleration=(4.0,) * 6 + (10.0,),
)

KINEMATICS = serial_kinematics(ORIGINS, TOOL, LIMITS.lower[:6], LIMITS.upper[:6])

SAFETY = SafetyLimits(
    LIMITS,
    leap=(0.5,) * 6 + (1.0,),
    jump=(0.04,) * 6 + (0.08,),
    tracking=(0.1,) * 6 + (inf,),
    workspace=Workspace(chain(ORIGINS, (0.0, 0.0, TOOL_LENGTH_M)), (-0.8, -0.8, -0.02), (0.8, 0.8, 1.0), 0.4),
)
"""The tool stays above what the arm stands on, at most .4 m/s fast: the shipped policy asks for .31, its expert for .25. The
simulated arm's servos lag by .02 rad at most; a gripper's does by as much as it holds."""

A1 = ArmModel("galaxea_a1", JOINT_NAMES, SAFETY, 0.02, KINEMATICS)
