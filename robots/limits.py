"""Hard limits per robot, frozen in code. Standard library only."""

from dataclasses import dataclass, fields
from math import inf, isfinite

from dvgwm.runtime.errors import ConfigError

from .chain import Chain, Vector

SLOWEST = 1e-3
"""In rad/s and rad/s^2: a joint that may do less does not move, and the numbers of its braking leave the machine's range."""


@dataclass(frozen=True, slots=True)
class JointLimits:
    """The limits of every command: positions in radians, rad/s, rad/s^2, one entry per joint, the gripper (0..1) last.

    Raises `ConfigError` if lengths differ, a range is empty or a speed is below `SLOWEST`.
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
        if (least := min(*self.velocity, *self.acceleration)) < SLOWEST:
            raise ConfigError(
                "LIMITS_SPEED", f"wanted velocities and accelerations of at least {SLOWEST:g}, got one of {least:g}"
            )

    @property
    def dof(self) -> int:
        """The number of joints, the gripper included."""
        return len(self.lower)


@dataclass(frozen=True, slots=True)
class Workspace:
    """The box for the tool of ``chain``, in metres in the base's frame, and its top speed in m/s."""

    chain: Chain
    lower_m: Vector
    upper_m: Vector
    speed_m_s: float

    def __post_init__(self) -> None:
        if not all(low < high for low, high in zip(self.lower_m, self.upper_m, strict=True)):
            raise ConfigError("LIMITS_RANGE", f"wanted lower below upper, got {self.lower_m}, {self.upper_m}")
        if not SLOWEST <= self.speed_m_s < inf:
            raise ConfigError("LIMITS_SPEED", f"wanted a tool speed of at least {SLOWEST:g}, got {self.speed_m_s} m/s")


@dataclass(frozen=True, slots=True)
class SafetyLimits:
    """All limits of the gate.

    One entry per joint: ``leap`` is how far the first target of a chunk may be from the last command, ``jump`` how far any
    tick's may, ``tracking`` how far the last command may be from the robot's measured place (inf for a joint allowed to be
    blocked, as a gripper is). The ages, in seconds, are of the observation behind the chunk, of the robot's state, of the
    camera's frame and of the planner's last sign of life.
    """

    joints: JointLimits
    leap: tuple[float, ...]
    jump: tuple[float, ...]
    tracking: tuple[float, ...]
    workspace: Workspace | None = None
    action_age_s: float = 10.0
    state_age_s: float = 0.06
    frame_age_s: float = 0.15
    heartbeat_age_s: float = 0.09

    def __post_init__(self) -> None:
        rows = self.leap, self.jump, self.tracking
        if any(len(row) != self.joints.dof for row in rows):
            raise ConfigError(
                "LIMITS_LENGTH", f"wanted {self.joints.dof} entries a row, got {[len(row) for row in rows]}"
            )
        ages = self.action_age_s, self.state_age_s, self.frame_age_s, self.heartbeat_age_s
        if not all(value > 0.0 for value in (*self.leap, *self.jump, *self.tracking, *ages)):
            raise ConfigError(
                "LIMITS_SPEED", "wanted positive leaps, jumps, tracking errors and ages, got one that is not"
            )
