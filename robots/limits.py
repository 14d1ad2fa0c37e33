"""Hard limits per robot, frozen in code; configuration can only tighten them. Standard library only."""

from dataclasses import dataclass, replace
from math import pi


@dataclass(frozen=True, slots=True)
class JointLimits:
    """What no command may exceed: positions in radians, rad/s, rad/s^2, one entry per joint, the gripper (0..1) last."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]

    @property
    def dof(self) -> int:
        return len(self.lower)
