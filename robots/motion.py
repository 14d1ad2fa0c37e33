"""The motion core: one pure step per tick, player first, gate last.

It runs on a virtual clock in simulation and in a process of its own on a real robot; this module knows neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import Any

from dvgwm.runtime.errors import RobotCommunicationError, ShapeError
from dvgwm.runtime.types import ArmEvent

from . import gate, player
from .limits import JointLimits


@dataclass(frozen=True, slots=True)
class JointChunk:
    """Joint targets with the times at which they are due; ``sequence`` increases from chunk to chunk.

    All are double precision, whatever they are given as. Raises `ShapeError` where one is no number, the times do not increase
    or are not one per target: whoever makes the chunk is told, not the tick that would have played it.
    """

    sequence: int
    times_s: tuple[float, ...]
    targets: tuple[tuple[float, ...], ...]

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
    """What the other side last asked for."""

    chunk: JointChunk | None = None
    stop: bool = False


@dataclass(frozen=True, slots=True)
class MotionState:
    """Everything the core remembers between ticks."""

    limits: JointLimits
    period_s: float
    gate: gate.GateState
    now_s: float = -inf
    sequence: int = -1
    track: player.Track | None = None
    reported: frozenset[str] = frozenset()

    @property
    def resting(self) -> bool:
        """Whether nothing is being played and every joint stands still."""
        return self.track is None and not any(self.gate.velocity)


def start(limits: JointLimits, period_s: float, measured: Sequence[float]) -> MotionState:
    """Return the core of an arm that stands still where it was measured, clipped to its limits.

    Raises `RobotCommunicationError` where the measurement is not one finite position per joint.
    """
    if gate.fault(limits, measured) is not None:
        raise RobotCommunicationError(
            "ARM_MEASURED", f"wanted {limits.dof} finite joint positions, got {list(measured)}; check the driver"
        )
    inside = (min(max(q, low), high) for q, low, high in zip(measured, limits.lower, limits.upper, strict=True))
    return MotionState(limits, period_s, gate.rest(tuple(inside)))


def step(core: MotionState, now_s: float, mailbox: Mailbox) -> tuple[MotionState, tuple[float, ...], ArmEvent | None]:
    """Return the core after this tick, the positions to command, and an event where something new has to be told.

    A chunk whose sequence does not increase is not played; one with an unsound target is not begun, and latches. After
    the last target the arm brakes and holds; nothing is extrapolated and nothing is played twice. Each kind of event is
    told once per chunk. A clock that goes back, or is none, latches.
    """
    clock = gate.double(now_s)
    if clock is None or not core.now_s <= clock < inf:
        now_s = core.now_s
        core = replace(core, gate=replace(core.gate, latched=core.gate.latched or "MOTION_CLOCK"))
    else:
        now_s = clock
        core = replace(core, now_s=clock)
    core, refused = _accept(core, now_s, mailbox)
    target = None if core.track is None else player.sample(core.track, now_s + core.period_s)
    state, verdict = gate.check(core.limits, core.period_s, core.gate, target)
    ended = mailbox.stop or target is None or state.latched is not None
    code = refused or verdict.log_code
    core = replace(core, gate=state, track=None if ended else core.track)
    if code is None or code in core.reported:
        return core, verdict.position, None
    return replace(core, reported=core.reported | {code}), verdict.position, _event(code, now_s, verdict)


def _accept(core: MotionState, now_s: float, mailbox: Mailbox) -> tuple[MotionState, str | None]:
    chunk = mailbox.chunk
    if mailbox.stop or core.gate.latched is not None:
        return replace(core, track=None), None
    if chunk is None or chunk.sequence == core.sequence:
        return core, None
    if chunk.sequence < core.sequence:
        return core, "MOTION_SEQUENCE"
    core = replace(core, sequence=chunk.sequence, track=None, reported=frozenset())
    faults = (gate.fault(core.limits, target) for target in chunk.targets)
    if (fault := next(filter(None, faults), None)) is not None:
        return replace(core, gate=replace(core.gate, latched=fault)), None
    curve = player.track(now_s, core.gate.position, core.gate.velocity, chunk.times_s, chunk.targets)
    return replace(core, track=curve), None if curve is not None else "MOTION_LATE"


def _event(code: str, now_s: float, verdict: gate.Verdict) -> ArmEvent:
    where = "" if verdict.joint is None else f" at joint {verdict.joint + 1}"
    return ArmEvent(code, now_s, MESSAGES[code].format(where=where))


MESSAGES = {
    "GATE_STALE": "the command was too old: braked and held",
    "GATE_SHAPE": "the command has another number of joints: braked, held and latched",
    "GATE_NONFINITE": "the command is no finite number: braked, held and latched",
    "GATE_LIMIT": "the command left the position limits{where}: clamped",
    "GATE_FAST": "the command was too fast{where}: slowed down",
    "MOTION_SEQUENCE": "a chunk came out of order and was not played",
    "MOTION_CLOCK": "the clock went back: braked, held and latched",
    "MOTION_LATE": "every target of the chunk was already past: held",
}
