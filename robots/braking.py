"""What joints can do within one tick, and whether they and the tool can still be braked inside limits. Needs no library."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, hypot, sqrt

from .chain import Vector, tool
from .limits import JointLimits, SafetyLimits

ROUNDING = 1e-9
"""What rounding may do to an exact command, in rad and rad/s, without being told of; it is still kept inside."""


@dataclass(frozen=True, slots=True)
class Commanded:
    """What was last emitted: positions in radians, velocities in rad/s."""

    position: tuple[float, ...]
    velocity: tuple[float, ...]


def speed_cap(room: float, acceleration: float, period_s: float) -> float:
    """Return the largest speed from which braking tick by tick, this tick's motion included, stays within ``room``.

    The exact inverse of the tick sum ``(k + 1) v dt - a dt^2 k (k + 1) / 2``; the continuous form overshoots.
    """
    ticks = max(room, 0.0) / (acceleration * period_s**2)
    braking = floor((sqrt(1.0 + 8.0 * ticks) - 1.0) / 2.0)
    return acceleration * period_s * (ticks / (braking + 1) + braking / 2.0)


def nearest(
    limits: JointLimits, period_s: float, state: Commanded, target: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, int] | None]:
    """Return the positions nearest to ``target`` that the joints can have next, their velocities, and what was in the way.

    That is a limit of positions (``LIMIT``) or of speeds (``FAST``) and the first joint that met it; None if nothing was.
    """
    position, velocity, found = [], [], None
    for joint, requested in enumerate(target):
        bounded = min(max(requested, limits.lower[joint]), limits.upper[joint])
        speed = (bounded - state.position[joint]) / period_s
        low, high = _allowed(limits, period_s, state, joint)
        passed = min(max(speed, low), high)
        exact = low - ROUNDING <= speed <= high + ROUNDING
        moved = bounded if exact else state.position[joint] + passed * period_s
        position.append(min(max(moved, limits.lower[joint]), limits.upper[joint]))
        velocity.append(speed if exact else passed)
        outside = abs(bounded - requested) > ROUNDING
        if found is None and (outside or not exact):
            found = ("LIMIT" if outside else "FAST"), joint
    return tuple(position), tuple(velocity), found


def _allowed(limits: JointLimits, period_s: float, state: Commanded, joint: int) -> tuple[float, float]:
    """Return the slowest and fastest velocity that acceleration, speed and stopping distance leave."""
    change = limits.acceleration[joint] * period_s
    before, at = state.velocity[joint], state.position[joint]
    down = speed_cap(at - limits.lower[joint], limits.acceleration[joint], period_s)
    up = speed_cap(limits.upper[joint] - at, limits.acceleration[joint], period_s)
    low = max(before - change, -limits.velocity[joint], -down)
    high = min(before + change, limits.velocity[joint], up)
    return min(low, high), high


def slower(
    limits: JointLimits, period_s: float, position: Sequence[float], velocity: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return positions and velocities a tick later, every joint braked as fast as it may be."""
    slowed = []
    for before, acceleration in zip(velocity, limits.acceleration, strict=True):
        change = acceleration * period_s
        slowed.append(0.0 if abs(before) <= change else before - change if before > 0 else before + change)
    moved = tuple(at + speed * period_s for at, speed in zip(position, slowed, strict=True))
    return inside(limits, moved), tuple(slowed)


def misled(limits: SafetyLimits, period_s: float, position: Sequence[float], velocity: Sequence[float]) -> str | None:
    """Return the log code of what the tool would do wrong: leave its workspace, or be too fast, now or while all joints brake.

    ``velocity`` led to ``position`` within the last tick. Joints that come to rest one after the other may make the tool faster
    than it was: both ends of every tick of the brake are looked at.
    """
    space = limits.workspace
    if space is None:
        return None
    _, before = tool(space.chain, [at - speed * period_s for at, speed in zip(position, velocity, strict=True)])
    found = None
    while True:
        end, after = tool(space.chain, position)
        if not all(low <= at <= high for low, at, high in zip(space.lower_m, end, space.upper_m, strict=True)):
            return "GATE_WORKSPACE"
        if found is None and max(_tool_speed(before, velocity), _tool_speed(after, velocity)) > space.speed_m_s:
            found = "GATE_TOOL_FAST"
        if not any(velocity[: len(after)]):
            return found
        position, velocity = slower(limits.joints, period_s, position, velocity)
        before = after


def _tool_speed(columns: Sequence[Vector], velocity: Sequence[float]) -> float:
    """Return how fast the tool is where its ``columns`` are how it moves with each joint, in m/s."""
    x = y = z = 0.0
    for (a, b, c), speed in zip(columns, velocity, strict=False):
        x, y, z = x + a * speed, y + b * speed, z + c * speed
    return hypot(x, y, z)


def inside(limits: JointLimits, position: Sequence[float]) -> tuple[float, ...]:
    """Return ``position`` with every joint inside its limits."""
    rows = zip(position, limits.lower, limits.upper, strict=True)
    return tuple(min(max(at, low), high) for at, low, high in rows)
