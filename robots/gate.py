"""The gate: the last word on every command. Standard library only.

`check` is called once per tick, with what is asked for and what is known. The first check that fails decides: latch, heartbeat,
the robot's own state, tracking error; ages, shape, finite numbers, jump; then positions, speeds and accelerations of the
joints (clamped), workspace and speed of the tool (braked), and how often that was necessary. From every state that it passes,
braking every joint as fast as it may keeps joints and tool inside their limits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import copysign, isfinite
from numbers import Real
from typing import Any

from .braking import Commanded, inside, misled, nearest, slower, speed_cap
from .limits import JointLimits, SafetyLimits

WINDOW_S = 1.0
STRAINED_S = 0.06
"""The gate latches after so much of the last `WINDOW_S` with too large a tracking error, in a row or not: what another tells
between the robot's own states would make each of them the first one."""
CLAMPED_SHARE = 0.1
"""The gate latches when more of the last `WINDOW_S` than this share was clamped: whoever plans is not to rely on it."""
SHARES = 1.0, 0.5, 0.25, 0.125
"""Of a step to where a latched arm goes, the rest being a brake: where its tool would be too fast, a smaller one is made."""
UNSENT = ("ROBOT_STOP", "ROBOT_SILENT")
"""Latches after which nothing is sent: the robot has stopped itself, or does not answer."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known at a tick beside the target: the measured joints, and in seconds how old everything is.

    ``measured`` is None, and an age 0, where the robot has no such thing. ``stopped`` says that the robot has stopped itself,
    ``untrusted`` that what it tells, or who commands it, cannot be relied on.
    """

    measured: Sequence[float] | None = None
    action_age_s: float = 0.0
    state_age_s: float = 0.0
    frame_age_s: float = 0.0
    heartbeat_age_s: float = 0.0
    stopped: bool = False
    untrusted: bool = False


FRESH = Reading()


@dataclass(frozen=True, slots=True)
class GateState(Commanded):
    """What was last emitted, and why the gate is latched, None if it is not.

    ``hold`` is where a latched arm goes, None: where it comes to rest. ``strained`` and ``clamped`` have a bit for every tick
    of the last `WINDOW_S`, the newest lowest, set where the tracking error was too large, or the target clamped.
    """

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
        window = (1 << round(WINDOW_S / period_s)) - 1
        state = replace(state, clamped=state.clamped << 1 & window, strained=state.strained << 1 & window)
        state = _known(limits, period_s, state, reading)
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


def _known(limits: SafetyLimits, period_s: float, state: GateState, reading: Reading) -> GateState:
    """Return the state, latched where what is known of planner and robot demands it whatever is asked for."""
    if not fresh(reading.heartbeat_age_s, limits.heartbeat_age_s):
        return latch(state, "GATE_HEARTBEAT")
    if reading.stopped:
        return latch(state, "ROBOT_STOP")
    if reading.untrusted:
        return latch(state, "ROBOT_UNTRUSTED")
    if not fresh(reading.state_age_s, limits.state_age_s):
        return latch(state, "ROBOT_SILENT")
    if reading.measured is None:
        return state
    if fault(limits.joints, reading.measured) is not None:
        return latch(state, "ROBOT_STATE")
    measured = tuple(map(float, reading.measured))
    errors = zip(state.position, measured, limits.tracking, strict=True)
    if not any(abs(at - seen) > most for at, seen, most in errors):
        return state
    state = replace(state, strained=state.strained | 1)
    if state.strained.bit_count() >= round(STRAINED_S / period_s):
        return latch(state, "GATE_TRACKING", inside(limits.joints, measured))
    return state


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


def _brake(limits: SafetyLimits, period_s: float, state: GateState, log_code: str | None) -> tuple[GateState, Verdict]:
    """Slow every joint down as fast as it may, then hold."""
    position, velocity = slower(limits.joints, period_s, state.position, state.velocity)
    return replace(state, position=position, velocity=velocity), Verdict(position, log_code)


def _hold(limits: SafetyLimits, period_s: float, state: GateState, reading: Reading) -> tuple[GateState, Verdict]:
    """Brake a latched arm and hold; one that was kept from following goes to where it was measured, and does not push."""
    after, verdict = _held(limits, period_s, state)
    # A robot may stop itself, or fall silent, after the arm was latched for another reason.
    answers = not reading.stopped and fresh(reading.state_age_s, limits.state_age_s)
    # Two who command one arm pull it to and fro: ours is braked, and then left to the other one.
    contested = (reading.untrusted or state.latched == "ROBOT_UNTRUSTED") and not any(state.velocity)
    return after, replace(verdict, send=state.latched not in UNSENT and answers and not contested)


def _held(limits: SafetyLimits, period_s: float, state: GateState) -> tuple[GateState, Verdict]:
    code = state.latched
    if state.hold is None:
        return _brake(limits, period_s, state, code)
    steps = []
    for at, to, acceleration in zip(state.position, state.hold, limits.joints.acceleration, strict=True):
        # As fast as it can still stop at the goal: the goal is not passed.
        step = min(speed_cap(abs(to - at), acceleration, period_s) * period_s, abs(to - at))
        steps.append(at + copysign(step, to - at))
    towards, _, _ = nearest(limits.joints, period_s, state, steps)
    braked, _ = slower(limits.joints, period_s, state.position, state.velocity)
    for share in SHARES:
        wanted = [b + share * (to - b) for b, to in zip(braked, towards, strict=True)]
        position, velocity, _ = nearest(limits.joints, period_s, state, wanted)
        wrong = misled(limits, period_s, position, velocity)
        if wrong is None:
            return replace(state, position=position, velocity=velocity), Verdict(position, code)
        if wrong == "GATE_WORKSPACE":
            return _brake(limits, period_s, replace(state, hold=None), code)
    return _brake(limits, period_s, state, code)
