"""The motion core: one pure step per tick, player first, gate last.

It runs on a virtual clock in simulation and in a process of its own on a real robot; this module knows neither.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import Any

from dvgwm.runtime.errors import GateLatchError, RobotCommunicationError, ShapeError
from dvgwm.runtime.types import ArmEvent

from . import braking, gate, governor, player
from .limits import SafetyLimits
from .messages import event

MISSED_TICKS = 5
"""A clock that jumps by more periods than this has left ticks out: whoever was to be watched was not."""
OUTSIDE = 1.0
"""How many of its ranges a joint's target may lie outside of them: further off are other units, degrees for radians."""
WELL_TICKS = 10
FORGIVEN, WINDOW_S, LONGEST_PAUSE_S = 3, 60.0, 5.0
"""A pause ends after `WELL_TICKS` good ticks; one longer than `LONGEST_PAUSE_S`, a fourth within the window, and a fourth
chunk within it that came too late to be played, latch."""


@dataclass(frozen=True, slots=True)
class JointChunk:
    """Joint targets with the times at which they are due; ``sequence`` increases from chunk to chunk.

    ``observed_s`` is when that was seen which they follow from, None if they follow from nothing seen. All are double
    precision, whatever they are given as. Raises `ShapeError` where one is no number, the times do not increase or are not
    one per target: whoever makes the chunk is told, not the tick that would have played it.
    """

    sequence: int
    times_s: tuple[float, ...]
    targets: tuple[tuple[float, ...], ...]
    observed_s: float | None = None

    def __post_init__(self) -> None:
        if type(self.sequence) is not int:
            raise ShapeError("CHUNK_SEQUENCE", f"wanted a whole number as sequence, got {self.sequence!r}")
        object.__setattr__(self, "times_s", _doubles(self.times_s))
        rows = self.targets if gate.is_row(self.targets) else (None,)
        object.__setattr__(self, "targets", tuple(map(_doubles, rows)))
        if len(self.times_s) != len(self.targets):
            raise ShapeError(
                "CHUNK_SHAPE", f"wanted {len(self.targets)} times, one per target, got {len(self.times_s)}"
            )
        for before, after in pairwise((-inf, *self.times_s, inf)):
            if not before < after:
                raise ShapeError("CHUNK_TIMES", f"wanted finite times that increase, got {after} s after {before} s")


def _doubles(values: Any) -> tuple[float, ...]:
    doubles = [gate.double(value) for value in values] if gate.is_row(values) else [None]
    if None in doubles:
        raise ShapeError("CHUNK_TYPE", f"wanted a row of real numbers in a chunk, got {values!r:.80}")
    return tuple(number for number in doubles if number is not None)


@dataclass(frozen=True, slots=True)
class Mailbox:
    """What the other side last asked for, and what the robot's side last saw, with its times on motion's clock.

    Times are None where there is no such thing to wait for: a camera, a planner that gives signs of life.
    """

    chunk: JointChunk | None = None
    stop: bool = False
    measured: Sequence[float] | None = None
    measured_s: float | None = None
    frame_s: float | None = None
    heartbeat_s: float | None = None
    stopped: bool = False
    untrusted: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Braking for what may come back by itself: since when, and how many ticks in a row all was well again."""

    since_s: float
    well: int = 0


@dataclass(frozen=True, slots=True)
class MotionState:
    """Everything the core remembers between ticks.

    ``behind_s`` is how much later than planned the track is played, where it was too fast for the tool. ``pauses``, and
    ``lates`` of chunks too late to be played, have the times of those that are younger than a minute.
    """

    limits: SafetyLimits
    period_s: float
    gate: gate.GateState
    now_s: float = -inf
    sequence: int = -1
    track: player.Track | None = None
    behind_s: float = 0.0
    observed_s: float | None = None
    pause: Pause | None = None
    pauses: tuple[float, ...] = ()
    lates: tuple[float, ...] = ()
    reported: frozenset[str] = frozenset()

    @property
    def resting(self) -> bool:
        """Whether nothing is being played and every joint stands still."""
        return self.track is None and not any(self.gate.velocity)


def start(limits: SafetyLimits, period_s: float, measured: Sequence[float]) -> MotionState:
    """Return the core of an arm that stands still where it was measured, a sensor's noise past a limit set right.

    Raises `RobotCommunicationError` where the measurement is not one finite position per joint, `GateLatchError` where arm or
    tool stand outside of their limits: no command that keeps inside could begin there.
    """
    joints = limits.joints
    if gate.fault(joints, measured) is not None:
        raise RobotCommunicationError(
            "ARM_MEASURED", f"wanted {joints.dof} finite joint positions, got {list(measured)}; check the driver"
        )
    rows = zip(measured, joints.lower, joints.upper, strict=True)
    inside = tuple(min(max(float(q), low), high) for q, low, high in rows)
    for joint, (at, q, most) in enumerate(zip(inside, measured, limits.jump, strict=True)):
        if abs(at - q) > most:
            span = f"{joints.lower[joint]:g} to {joints.upper[joint]:g}"
            raise GateLatchError(
                "ARM_OUTSIDE", f"joint {joint + 1} stands at {q:.3f}, outside of {span}; move it inside"
            )
    if braking.misled(limits, period_s, inside, (0.0,) * joints.dof) is not None:
        raise GateLatchError("ARM_OUTSIDE", "the tool stands outside of its workspace; move the arm inside")
    return MotionState(limits, period_s, gate.rest(inside))


def step(core: MotionState, now_s: float, mailbox: Mailbox) -> tuple[MotionState, gate.Verdict, ArmEvent | None]:
    """Return the core after this tick, what may be sent, and an event where something new has to be told.

    A chunk whose sequence does not increase is not played; one with an unsound target is not begun, and latches. After
    the last target the arm brakes and holds; nothing is extrapolated and nothing is played twice. What joints and tool cannot
    follow is slowed down before the gate sees it. Each kind of event is told once per chunk. A clock that goes back or is
    none latches, and so does one that leaves ticks out. At a tick before its time nothing is sent: the last command holds until
    its period is over, and one that is sent twice would be a stop of one tick.
    """
    clock = gate.double(now_s)
    if clock is None or not core.now_s <= clock < inf:
        core = replace(core, gate=gate.latch(core.gate, "MOTION_CLOCK"))
        clock = None
    elif clock - core.now_s < core.period_s / 2 and core.gate.latched != "MOTION_CLOCK":
        return core, gate.Verdict(core.gate.position, None, send=False), None
    else:
        late = core.now_s > -inf and clock - core.now_s > MISSED_TICKS * core.period_s
        core = replace(core, now_s=clock, gate=gate.latch(core.gate, "MOTION_GAP") if late else core.gate)
    core, refused = _accept(core, mailbox)
    plan = _plan(core)
    target, found = None, None
    if plan is not None:
        target, share, found = governor.govern(core.limits, core.period_s, core.gate, plan)
        core = replace(core, behind_s=core.behind_s + (1.0 - share) * core.period_s)
    # Without a clock nothing has an age, and the arm is to be braked all the same.
    reading = (
        gate.Reading(stopped=mailbox.stopped, untrusted=mailbox.untrusted) if clock is None else _reading(core, mailbox)
    )
    state, verdict = gate.check(core.limits, core.period_s, core.gate, target, reading)
    core = replace(core, gate=state)
    if core.pause is not None or verdict.log_code == "GATE_FRAME":
        core = _paused(core, gate.fresh(reading.frame_age_s, core.limits.frame_age_s))
    if plan is None or core.gate.latched is not None or verdict.log_code in ("GATE_FRAME", "GATE_STALE"):
        core = replace(core, track=None)
    slowed = (None, None) if found is None else (f"MOTION_{found[0]}", found[1])
    code, joint = (core.gate.latched or refused or verdict.log_code, verdict.joint)
    code, joint = slowed if code is None else (code, joint)
    verdict = replace(verdict, joint=joint)
    if code is None or code in core.reported:
        return core, verdict, None
    return replace(core, reported=core.reported | {code}), verdict, event(code, core.now_s, joint)


def _reading(core: MotionState, mailbox: Mailbox) -> gate.Reading:
    times = core.observed_s, mailbox.measured_s, mailbox.frame_s, mailbox.heartbeat_s
    action, state, frame, heartbeat = (0.0 if since_s is None else core.now_s - since_s for since_s in times)
    return gate.Reading(mailbox.measured, action, state, frame, heartbeat, mailbox.stopped, mailbox.untrusted)


def _plan(core: MotionState) -> Callable[[float], tuple[float, ...]] | None:
    """Return where the plan is after a share of the coming tick, None where nothing is played or the last target is due."""
    track = core.track
    if track is None or player.sample(track, core.now_s + core.period_s) is None:
        return None
    begin_s = core.now_s - core.behind_s
    return lambda share: player.sample(track, begin_s + share * core.period_s) or core.gate.position


def _paused(core: MotionState, well: bool) -> MotionState:
    """Return the core in its pause, out of it after enough ticks that were well, or latched where pauses are long or many."""
    pause, pauses, state = core.pause, core.pauses, core.gate
    if pause is None:
        pause = Pause(core.now_s)
        pauses = _within(pauses, core.now_s)
    pause = replace(pause, well=pause.well + 1 if well else 0)
    if len(pauses) > FORGIVEN:
        state = gate.latch(state, "MOTION_PAUSES")
    if core.now_s - pause.since_s > LONGEST_PAUSE_S:
        state = gate.latch(state, "MOTION_PAUSED")
    return replace(core, pause=None if pause.well >= WELL_TICKS else pause, pauses=pauses, gate=state)


def _within(times_s: tuple[float, ...], now_s: float) -> tuple[float, ...]:
    """Return the times that lie within the window, and now."""
    return (*(at for at in times_s if now_s - at < WINDOW_S), now_s)


def _accept(core: MotionState, mailbox: Mailbox) -> tuple[MotionState, str | None]:
    chunk = mailbox.chunk
    if mailbox.stop or core.gate.latched is not None:
        return replace(core, track=None), None
    if chunk is None or chunk.sequence == core.sequence or core.pause is not None:
        return core, None
    if chunk.sequence < core.sequence:
        return core, "MOTION_SEQUENCE"
    core = replace(core, sequence=chunk.sequence, track=None, observed_s=chunk.observed_s, reported=frozenset())
    if (fault := _fault(core, chunk)) is not None:
        return replace(core, gate=gate.latch(core.gate, fault)), None
    curve = player.track(core.now_s, core.gate.position, core.gate.velocity, chunk.times_s, chunk.targets)
    if curve is None:
        core = replace(core, lates=_within(core.lates, core.now_s))
        state = gate.latch(core.gate, "MOTION_LATES") if len(core.lates) > FORGIVEN else core.gate
        return replace(core, gate=state), "MOTION_LATE"
    leaps = zip(curve.positions[1], core.gate.position, core.limits.leap, strict=True)
    if any(abs(to - at) > most for to, at, most in leaps):
        return replace(core, gate=gate.latch(core.gate, "MOTION_LEAP")), None
    return replace(core, track=curve, behind_s=0.0), None


def _fault(core: MotionState, chunk: JointChunk) -> str | None:
    """Return the log code of a chunk that is not to be begun: of another size, not finite, far outside the joints' range."""
    joints = core.limits.joints
    for target in chunk.targets:
        if (fault := gate.fault(joints, target)) is not None:
            return fault
        for value, low, high in zip(target, joints.lower, joints.upper, strict=True):
            if not low - OUTSIDE * (high - low) <= value <= high + OUTSIDE * (high - low):
                return "MOTION_RANGE"
    return None
