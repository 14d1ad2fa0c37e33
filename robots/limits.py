"""Hard limits per robot, frozen in code. Standard library only."""

from dataclasses import dataclass, fields
from math import isfinite

from dvgwm.runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class JointLimits:
    """What no command may exceed: positions in radians, rad/s, rad/s^2, one entry per joint, the gripper (0..1) last.

    Raises `ConfigError` where lengths differ, a range is empty or a speed is not positive.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]

    def __post_init__(self) -> None:
        columns = [getattr(self, field.name) for field in fields(self)]
        if len({len(column) for column in columns}) != 1 or not self.lower:
            raise ConfigError("LIMITS_LENGTH", f"wanted one entry per joint, got {[len(c) for c in columns]}")
        if not all(isfinite(value) for column in columns for value in column):
            raise ConfigError("LIMITS_FINITE", "wanted finite limits, got one that is not")
        if any(low >= high for low, high in zip(self.lower, self.upper, strict=True)):
            raise ConfigError(
                "LIMITS_RANGE", f"wanted lower below upper for every joint, got {self.lower}, {self.upper}"
            )
        if any(value <= 0.0 for value in (*self.velocity, *self.acceleration)):
            raise ConfigError("LIMITS_SPEED", "wanted positive velocities and accelerations, got one that is not")

    @property
    def dof(self) -> int:
        """How many joints there are, the gripper included."""
        return len(self.lower)
