"""The gate: the last word on every command. Standard library only.

`check` is called once per tick, with what is asked for and what is known. The first check that fails decides: latch, heartbeat,
the robot's own state, tracking error; ages, shape, finite numbers, jump; then positions, speeds and accelerations of the
joints (clamped), workspace and speed of the tool (braked), and how often that was necessary. From every state that it passes,
braking every joint as fast as it may keeps joints and tool inside their limits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import copysign, floor, isfinite, sqrt
from numbers import Real
from typing import Any

from .chain import tool
from .limits import JointLimits, SafetyLimits

ROUNDING = 1e-9
"""What rounding may do to an exact command, in rad and rad/s, without being told of; it is still kept inside."""
TRACKING_TICKS = 3
"""Ticks in a row with too large a tracking error after which the gate latches."""
WINDOW_S = 1.0
CLAMPED_SHARE = 0.1
"""The gate latches when more of the last `WINDOW_S` than this share was clamped: whoever plans is not to rely on it."""
UNSENT = ("ROBOT_STOP", "ROBOT_SILENT")
"""Latches after which nothing is sent: the robot has stopped itself, or does not answer."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known at a tick beside the target: the measured joints, and in seconds how old everything is.

    ``measured`` is None, and an age 0, where the robot has no such thing. ``stopped`` says that the robot has stopped itself.
    """

    measured: Sequence[float] | None = None
    action_age_s: float = 0.0
    state_age_s: float = 0.0
    frame_age_s: float = 0.0
    heartbeat_age_s: float = 0.0
    stopped: bool = False


FRESH = Reading()


@dataclass(frozen=True, slots=True)
class GateState:
    """What was last emitted, in radians and rad/s, and why the gate is latched, None if it is not.

    ``hold`` is where a latched arm goes, None: where it comes to rest. ``strained`` counts ticks in a row with too large a
    tracking error; ``clamped`` has a bit for every tick of the last `WINDOW_S`, set where it was clamped, the newest lowest.
    """

    position: tuple[float, ...]
    velocity: tuple[float, ...]
    latched: str | None = None
    hold: tuple[float, ...] | None = None
    strained: int = 0
    clamped: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be sent now; ``log_code`` says why it is not what was asked for, None if it is.

    ``send`` is False where nothing is to be sent at all: the robot has stopped itself, or does not answer.
    """

    position: tuple[float, ...]
    log_code: str | None
    joint: int | None = None
    send: bool = True


def rest(position: Sequence[float]) -> GateState:
    """Return the state of an arm that stands still at ``position``."""
    return GateState(tuple(position), (0.0,) * len(position))


def latch(state: GateState, log_code: str, hold: tuple[float, ...] | None = None) -> GateState:
    """Return ``state`` latched, for the first reason that there was."""
    return state if state.latched is not None else replace(state, latched=log_code, hold=hold)


def check(
    limits: SafetyLimits,
    period_s: float,
    state: GateState,
    target: Sequence[float] | None,
    reading: Reading = FRESH,
) -> tuple[GateState, Verdict]:
    """Return the next state and what may be sent; a ``target`` of None asks for a brake.

    Whatever numbers the target is made of, all is computed in double precision.
    """
    if state.latched is None:
        state = _known(
            limits, replace(state, clamped=state.clamped << 1 & (1 << round(WINDOW_S / period_s)) - 1), reading
        )
    if state.latched is not None:
        return _hold(limits, period_s, state, reading)
    if target is None:
        return _brake(limits, period_s, state, None)
    if (stale := _stale(limits, reading)) is not None:
        return _brake(limits, period_s, state, stale)
    state = _sound(limits, state, target)
    if state.latched is not None:
        return _hold(limits, period_s, state, reading)
    return _pass(limits, period_s, state, tuple(map(float, target)), reading)


def fault(limits: JointLimits, target: Any) -> str | None:
    """Return the log code with which `check` latches at ``target``, None if it is one finite number per joint, in order."""
    if not is_row(target) or len(target) != limits.dof:
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


def nearest(
    limits: JointLimits, period_s: float, state: GateState, target: Sequence[float]
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


def misled(limits: SafetyLimits, period_s: float, position: Sequence[float], velocity: Sequence[float]) -> str | None:
    """Return the log code of what the tool would do wrong: leave its workspace, now or while all joints brake; be too fast."""
    space = limits.workspace
    if space is None:
        return None
    end, parts = tool(space.chain, position)
    speeds = tuple(sum(part[axis] * v for part, v in zip(parts, velocity, strict=False)) for axis in range(3))
    while all(low <= at <= high for low, at, high in zip(space.lower_m, end, space.upper_m, strict=True)):
        if not any(velocity[: len(parts)]):
            return "GATE_TOOL_FAST" if sum(speed * speed for speed in speeds) > space.speed_m_s**2 else None
        position, velocity = slower(limits.joints, period_s, position, velocity)
        end, _ = tool(space.chain, position)
    return "GATE_WORKSPACE"


def _known(limits: SafetyLimits, state: GateState, reading: Reading) -> GateState:
    """Return the state, latched where what is known of planner and robot demands it whatever is asked for."""
    if not fresh(reading.heartbeat_age_s, limits.heartbeat_age_s):
        return latch(state, "GATE_HEARTBEAT")
    if reading.stopped:
        return latch(state, "ROBOT_STOP")
    if not fresh(reading.state_age_s, limits.state_age_s):
        return latch(state, "ROBOT_SILENT")
    if reading.measured is None:
        return state
    if fault(limits.joints, reading.measured) is not None:
        return latch(state, "ROBOT_STATE")
    measured = tuple(map(float, reading.measured))
    errors = zip(state.position, measured, limits.tracking, strict=True)
    strained = state.strained + 1 if any(abs(at - seen) > most for at, seen, most in errors) else 0
    if strained >= TRACKING_TICKS:
        return latch(state, "GATE_TRACKING", _inside(limits.joints, measured))
    return replace(state, strained=strained)


def _stale(limits: SafetyLimits, reading: Reading) -> str | None:
    """Return the log code of what is too old to move on, None if nothing is."""
    if not fresh(reading.frame_age_s, limits.frame_age_s):
        return "GATE_FRAME"
    return None if fresh(reading.action_age_s, limits.action_age_s) else "GATE_STALE"


def fresh(age_s: object, most_s: float) -> bool:
    """Return whether an age is a number, not negative and at most ``most_s``."""
    age = double(age_s)
    return age is not None and 0.0 <= age <= most_s  # written so that NaN is stale


def _sound(limits: SafetyLimits, state: GateState, target: Any) -> GateState:
    """Return the state, latched where ``target`` is no row of finite numbers near the last command."""
    if (code := fault(limits.joints, target)) is not None:
        return latch(state, code)
    far = any(abs(float(q) - at) > most for q, at, most in zip(target, state.position, limits.jump, strict=True))
    return latch(state, "GATE_JUMP") if far else state


def _pass(
    limits: SafetyLimits, period_s: float, state: GateState, target: tuple[float, ...], reading: Reading
) -> tuple[GateState, Verdict]:
    """Pass what the joints' limits leave of ``target``, or brake for the tool's; latch where that is no exception."""
    position, velocity, found = nearest(limits.joints, period_s, state, target)
    wrong = misled(limits, period_s, position, velocity)
    if found is not None or wrong is not None:
        state = replace(state, clamped=state.clamped | 1)
    if state.clamped.bit_count() > CLAMPED_SHARE * round(WINDOW_S / period_s):
        return _hold(limits, period_s, latch(state, "GATE_CLAMPED"), reading)
    if wrong is not None:
        return _brake(limits, period_s, state, wrong)
    code, joint = (None, None) if found is None else (f"GATE_{found[0]}", found[1])
    return replace(state, position=position, velocity=velocity), Verdict(position, code, joint)


def _allowed(limits: JointLimits, period_s: float, state: GateState, joint: int) -> tuple[float, float]:
    """Return the slowest and fastest velocity that acceleration, speed and stopping distance leave."""
    change = limits.acceleration[joint] * period_s
    before, at = state.velocity[joint], state.position[joint]
    down = speed_cap(at - limits.lower[joint], limits.acceleration[joint], period_s)
    up = speed_cap(limits.upper[joint] - at, limits.acceleration[joint], period_s)
    low = max(before - change, -limits.velocity[joint], -down)
    high = min(before + change, limits.velocity[joint], up)
    return min(low, high), high


def _inside(limits: JointLimits, position: Sequence[float]) -> tuple[float, ...]:
    rows = zip(position, limits.lower, limits.upper, strict=True)
    return tuple(min(max(at, low), high) for at, low, high in rows)


def slower(
    limits: JointLimits, period_s: float, position: Sequence[float], velocity: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return positions and velocities a tick later, every joint braked as fast as it may be."""
    slowed = []
    for before, acceleration in zip(velocity, limits.acceleration, strict=True):
        change = acceleration * period_s
        slowed.append(0.0 if abs(before) <= change else before - change if before > 0 else before + change)
    moved = tuple(at + speed * period_s for at, speed in zip(position, slowed, strict=True))
    return _inside(limits, moved), tuple(slowed)


def _brake(limits: SafetyLimits, period_s: float, state: GateState, log_code: str | None) -> tuple[GateState, Verdict]:
    """Slow every joint down as fast as it may, then hold."""
    position, velocity = slower(limits.joints, period_s, state.position, state.velocity)
    return replace(state, position=position, velocity=velocity), Verdict(position, log_code)


def _hold(limits: SafetyLimits, period_s: float, state: GateState, reading: Reading) -> tuple[GateState, Verdict]:
    """Brake a latched arm and hold; one that was kept from following goes to where it was measured, and does not push."""
    after, verdict = _held(limits, period_s, state)
    # A robot may stop itself, or fall silent, after the arm was latched for another reason.
    answers = not reading.stopped and fresh(reading.state_age_s, limits.state_age_s)
    return after, replace(verdict, send=state.latched not in UNSENT and answers)


def _held(limits: SafetyLimits, period_s: float, state: GateState) -> tuple[GateState, Verdict]:
    code = state.latched
    if state.hold is None:
        return _brake(limits, period_s, state, code)
    steps = []
    for at, to, acceleration in zip(state.position, state.hold, limits.joints.acceleration, strict=True):
        # As fast as it can still stop at the goal: the goal is not passed.
        step = min(speed_cap(abs(to - at), acceleration, period_s) * period_s, abs(to - at))
        steps.append(at + copysign(step, to - at))
    position, velocity, _ = nearest(limits.joints, period_s, state, steps)
    if misled(limits, period_s, position, velocity) == "GATE_WORKSPACE":
        return _brake(limits, period_s, replace(state, hold=None), code)
    return replace(state, position=position, velocity=velocity), Verdict(position, code)
