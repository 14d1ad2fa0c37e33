"""The gate: the last word on every command. Standard library only.

This first version never passes what is not finite, stale, of another size, outside the position limits or too fast;
what it emits can always be braked inside the limits. Clamping does not latch yet: tracking error, jumps, workspace and
the rate of clamping belong to the full gate and take their places in `check`, in the order that the safety notes give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, isfinite, sqrt
from numbers import Real
from typing import Any

from .limits import JointLimits

ROUNDING = 1e-9
"""What rounding may do to an exact command, in rad and rad/s, without being told of; it is still kept inside."""


@dataclass(frozen=True, slots=True)
class GateState:
    """What was last emitted, in radians and rad/s, and why the gate is latched, None if it is not."""

    position: tuple[float, ...]
    velocity: tuple[float, ...]
    latched: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be sent now; ``log_code`` says why it is not what was asked for, None if it is."""

    position: tuple[float, ...]
    log_code: str | None
    joint: int | None = None


def rest(position: Sequence[float]) -> GateState:
    """Return the state of an arm that stands still at ``position``."""
    return GateState(tuple(position), (0.0,) * len(position))


def check(
    limits: JointLimits,
    period_s: float,
    state: GateState,
    target: Sequence[float] | None,
    age_s: float = 0.0,
    max_age_s: float = 0.1,
) -> tuple[GateState, Verdict]:
    """Return the next state and what may be sent; a ``target`` of None asks for a brake. The first failing check decides.

    Whatever numbers the target is made of, all is computed in double precision.
    """
    if state.latched is not None:
        return _brake(limits, period_s, state, state.latched)
    if target is None:
        return _brake(limits, period_s, state, None)
    age = double(age_s)
    if age is None or not 0.0 <= age <= max_age_s:  # written so that NaN is stale
        return _brake(limits, period_s, state, "GATE_STALE")
    if (code := fault(limits, target)) is not None:
        return _brake(limits, period_s, replace(state, latched=code), code)
    return _move(limits, period_s, state, tuple(map(float, target)))


def fault(limits: JointLimits, target: Any) -> str | None:
    """Return the log code with which `check` latches at ``target``, None if it is one finite number per joint, in order."""
    if (
        isinstance(target, str | bytes | Mapping)
        or not hasattr(target, "__getitem__")
        or not hasattr(target, "__len__")
    ):
        return "GATE_SHAPE"
    if len(target) != limits.dof:
        return "GATE_SHAPE"
    values = (double(value) for value in target)
    return None if all(value is not None and isfinite(value) for value in values) else "GATE_NONFINITE"


def is_row(values: object) -> bool:
    """Return whether ``values`` have a length and an order: texts, sets and mappings are no rows of numbers."""
    ordered = hasattr(values, "__getitem__") and hasattr(values, "__len__")
    return ordered and not isinstance(values, str | bytes | Mapping)


def double(value: object) -> float | None:
    """Return a real number in double precision; None for a text, a truth value, a Decimal or a whole number beyond doubles."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except (ArithmeticError, TypeError, ValueError):
        return None


def speed_cap(room: float, acceleration: float, period_s: float) -> float:
    """Return the largest speed from which braking tick by tick, this tick's motion included, stays within ``room``.

    The exact inverse of the tick sum ``(k + 1) v dt - a dt^2 k (k + 1) / 2``; the continuous form overshoots.
    """
    ticks = max(room, 0.0) / (acceleration * period_s**2)
    braking = floor((sqrt(1.0 + 8.0 * ticks) - 1.0) / 2.0)
    return acceleration * period_s * (ticks / (braking + 1) + braking / 2.0)


def _move(limits: JointLimits, period_s: float, state: GateState, target: Sequence[float]) -> tuple[GateState, Verdict]:
    position, velocity, code, worst = [], [], None, None
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
        if worst is None and (outside or not exact):
            code, worst = ("GATE_LIMIT" if outside else "GATE_FAST"), joint
    return GateState(tuple(position), tuple(velocity)), Verdict(tuple(position), code, worst)


def _allowed(limits: JointLimits, period_s: float, state: GateState, joint: int) -> tuple[float, float]:
    """Return the slowest and fastest velocity that acceleration, speed and stopping distance leave."""
    change = limits.acceleration[joint] * period_s
    before, at = state.velocity[joint], state.position[joint]
    down = speed_cap(at - limits.lower[joint], limits.acceleration[joint], period_s)
    up = speed_cap(limits.upper[joint] - at, limits.acceleration[joint], period_s)
    low = max(before - change, -limits.velocity[joint], -down)
    high = min(before + change, limits.velocity[joint], up)
    return min(low, high), high


def _brake(limits: JointLimits, period_s: float, state: GateState, log_code: str | None) -> tuple[GateState, Verdict]:
    """Slow every joint down as fast as it may, then hold."""
    velocity = []
    for before, acceleration in zip(state.velocity, limits.acceleration, strict=True):
        change = acceleration * period_s
        velocity.append(0.0 if abs(before) <= change else before - change if before > 0 else before + change)
    position = tuple(
        min(max(at + speed * period_s, low), high)
        for at, speed, low, high in zip(state.position, velocity, limits.lower, limits.upper, strict=True)
    )
    return GateState(position, tuple(velocity), state.latched), Verdict(position, log_code)
