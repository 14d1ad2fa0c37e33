"""The fault campaign: every fault that motion has to answer, at five phases of a motion, on a virtual clock.

An arm of the Galaxea A1's limits plays one chunk after another; at some tick something goes wrong and stays so. Each fault has
a state that the arm is to reach, a log code, an exit code and a number of ticks within which it brakes. docs/faults.md has what
came out.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from dvgwm.robots import gate, messages, motion
from dvgwm.robots.a1_model import A1, SAFETY
from dvgwm.robots.motion import JointChunk, Mailbox

T = A1.period_s
HOME = (0.0, 1.58, -1.14, 1.57, -1.13, 0.0, 0.5)
PHASES = {"at rest": 4, "speeding up": 20, "at speed": 42, "at a chunk's end": 99, "in the next chunk": 130}
"""Ticks at which a fault begins."""
LENGTH_S = 2.0
LONGEST, AFTER = 700, 40
"""Ticks of a trial, and of one whose arm is latched and at rest."""


def swing(joint: int, time_s: float) -> float:
    """Return how far a joint is from home: to and fro, as smooth as its limits want it."""
    return (0.25, 0.12, 0.12, 0.2, 0.2, 0.25, 0.1)[joint] * (1.0 - math.cos(1.5 * time_s)) * min(1.0, time_s)


def chunk(sequence: int, begin_s: float) -> JointChunk:
    """Return two seconds of the motion from a time on, twenty targets."""
    times_s = tuple(begin_s + 0.1 * k for k in range(1, 21))
    rows = tuple(tuple(at + swing(joint, time_s) for joint, at in enumerate(HOME)) for time_s in times_s)
    return JointChunk(sequence, times_s, rows, begin_s)


def chunk_at(tick: int) -> JointChunk:
    """Return the chunk that is in the mailbox at a tick: a new one every two seconds."""
    number = math.floor(tick * T / LENGTH_S)
    return chunk(number, number * LENGTH_S)


CLOCKED = ("now_s", "measured_s", "frame_s", "heartbeat_s")
"""What has its time from the one clock that all have."""
Change = Callable[[int, int, dict[str, Any]], None]
"""From the tick, the fault's first one and what is known at it to what is known instead."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and what is to come of it: the state, the log code, and ticks within which the arm brakes."""

    name: str
    change: Change
    state: str
    log_code: str | None
    within: int


def frozen(field: str) -> Change:
    """Return what keeps a time at what it was."""

    def change(tick: int, begin: int, known: dict[str, Any]) -> None:
        known[field] = begin * T

    return change


def of_chunk(spoil: Callable[[JointChunk], JointChunk]) -> Change:
    """Return what puts into the mailbox what would go on from here, spoilt."""

    def change(tick: int, begin: int, known: dict[str, Any]) -> None:
        known["chunk"] = spoil(chunk(1000, begin * T))

    return change


def rows(change: Callable[[tuple[float, ...], int], tuple[float, ...]]) -> Change:
    return of_chunk(lambda chunk: replace(chunk, targets=tuple(change(row, k) for k, row in enumerate(chunk.targets))))


def one(value: float, at: int) -> Change:
    return rows(lambda row, k: (*row[:2], value if k == at else row[2], *row[3:]))


def wrist(change: Callable[[float, int], float]) -> Change:
    """The last joint, which turns the tool in place."""
    return rows(lambda row, k: (*row[:5], change(row[5], k), row[6]))


def clock(shift: Callable[[int], float]) -> Change:
    def change(tick: int, begin: int, known: dict[str, Any]) -> None:
        for name in CLOCKED:
            known[name] += shift(tick - begin)

    return change


def stuck(tick: int, begin: int, known: dict[str, Any]) -> None:
    known["stuck"] = True


def contradicted(tick: int, begin: int, known: dict[str, Any]) -> None:
    known["stuck"] = tick % 3 > 0


def old(tick: int, begin: int, known: dict[str, Any]) -> None:
    known["frame_s"] -= 0.02 * (tick % 7)


def late(tick: int, begin: int, known: dict[str, Any]) -> None:
    """Whoever plans is three seconds behind: what was valid is played, then the arm waits for the next."""
    known["chunk"] = chunk_at(max(tick - 150, begin))


def slow(tick: int, begin: int, known: dict[str, Any]) -> None:
    """Once a second a tick comes three periods late, with all that it knows."""
    for name in CLOCKED:
        known[name] += 3 * T * ((tick - begin) // 50)


def silent_robot(tick: int, begin: int, known: dict[str, Any]) -> None:
    known["measured_s"] = begin * T


def towards_the_table(row: tuple[float, ...], k: int) -> tuple[float, ...]:
    return (*row[:1], row[1] + 0.09 * k, *row[2:])


FAULTS: Mapping[str, Fault] = {
    "F01": Fault("the camera stalls", frozen("frame_s"), "latched", "MOTION_PAUSED", 8),
    "F03": Fault("the same frame again and again", frozen("frame_s"), "latched", "MOTION_PAUSED", 8),
    "F04": Fault("frames out of order, up to .12 s old", old, "running", None, 0),
    "F07": Fault("an action that is no number", one(math.nan, 7), "latched", "GATE_NONFINITE", 0),
    "F08": Fault("actions of another number of joints", rows(lambda row, k: row[:6]), "latched", "GATE_SHAPE", 0),
    "F11": Fault("every plan three seconds late", late, "latched", "MOTION_LATES", 550),
    "F12": Fault("whoever plans hangs", frozen("heartbeat_s"), "latched", "GATE_HEARTBEAT", 5),
    "F25": Fault("an action that is infinite", one(math.inf, 0), "latched", "GATE_NONFINITE", 0),
    "F26 position": Fault(
        "a joint past its end", wrist(lambda q, k: 2.5 if k > 8 else q), "running", "MOTION_LIMIT", 0
    ),
    "F26 velocity": Fault(
        "steps that are too fast", wrist(lambda q, k: q + 0.5 * (k % 2)), "running", "MOTION_FAST", 0
    ),
    "F26 workspace": Fault("the tool into the table", rows(towards_the_table), "latched", "GATE_CLAMPED", 100),
    "F27": Fault(
        "a chunk that begins elsewhere", rows(lambda row, k: (row[0] + 0.9, *row[1:])), "latched", "MOTION_LEAP", 0
    ),
    "F28 units": Fault(
        "degrees for radians", rows(lambda row, k: tuple(57.3 * q for q in row)), "latched", "MOTION_RANGE", 0
    ),
    "F28 order": Fault(
        "joints in another order", rows(lambda row, k: (row[1], row[0], *row[2:])), "latched", "MOTION_LEAP", 0
    ),
    "F28 sign": Fault(
        "a joint with another sign", rows(lambda row, k: (*row[:3], -row[3], *row[4:])), "latched", "MOTION_LEAP", 0
    ),
    "F29": Fault("the robot does not answer", silent_robot, "latched", "ROBOT_SILENT", 4),
    "F30": Fault("the robot stops itself", lambda t, b, known: known.update(stopped=True), "latched", "ROBOT_STOP", 0),
    "F51": Fault(
        "the robot cannot be relied on: a message without sense, a second one who tells or commands",
        lambda t, b, known: known.update(untrusted=True),
        "latched",
        "ROBOT_UNTRUSTED",
        0,
    ),
    "F52": Fault(
        "an arm that is blocked, and a second teller says that it is not", contradicted, "latched", "GATE_TRACKING", 120
    ),
    "F31": Fault("an arm that is blocked", stuck, "latched", "GATE_TRACKING", 100),
    "F33": Fault("whoever plans is gone", frozen("heartbeat_s"), "latched", "GATE_HEARTBEAT", 5),
    "F35 back": Fault("the clock goes back", clock(lambda since: -1.0), "latched", "MOTION_CLOCK", 0),
    "F35 none": Fault("the clock is no number", clock(lambda since: math.nan), "latched", "MOTION_CLOCK", 0),
    "F35 gap": Fault("ticks are left out", clock(lambda since: 0.2), "latched", "MOTION_GAP", 0),
    "F36": Fault("once a second a tick three periods late", slow, "running", "MOTION_FAST", 0),
}


@dataclass(frozen=True)
class Outcome:
    """What became of an arm: its state, the log codes told, the exit code, ticks until it braked, whether it was sent to."""

    state: str
    told: tuple[str, ...]
    exit_code: int | None
    braked_after: int | None
    silent: bool


def trial(fault: Fault, begin: int) -> Outcome:
    """Return what becomes of an arm that the fault meets at tick ``begin``."""
    core = motion.start(SAFETY, T, HOME)
    measured, told, braked, silent, moved = HOME, [], None, False, False
    rested, blocked_at = 0, None
    for tick in range(LONGEST):
        rested += core.gate.latched is not None and core.resting
        if rested > AFTER:
            break
        known: dict[str, Any] = {"now_s": tick * T, "chunk": chunk_at(tick), "stuck": False, "stopped": False}
        known |= dict.fromkeys(("measured_s", "frame_s", "heartbeat_s"), tick * T)
        if tick >= begin:
            fault.change(tick, begin, known)
        now_s, is_stuck = known.pop("now_s"), known.pop("stuck")
        before = core.gate
        core, verdict, event = motion.step(core, now_s, Mailbox(measured=measured, **known))
        assert_safe(before, core.gate)
        blocked_at = measured if blocked_at is None and is_stuck else blocked_at
        measured = verdict.position if not is_stuck or blocked_at is None else blocked_at
        told += [event.log_code] if event else []
        silent = silent or not verdict.send
        if tick >= begin:
            moved = moved or any(core.gate.velocity)
            answered = core.gate.latched is not None or core.pause is not None
            braked = tick - begin if answered and braked is None else braked
    state = "latched" if core.gate.latched else "paused" if core.pause else "running"
    ends = None if core.gate.latched is None else messages.stopped(core.gate.latched).exit_code
    if state != "running":
        assert core.resting
    return Outcome(state, tuple(dict.fromkeys(told)), ends, braked, silent)


def assert_safe(before: gate.GateState, after: gate.GateState) -> None:
    joints = SAFETY.joints
    rows_ = zip(before.velocity, before.position, after.position, joints.acceleration, joints.velocity, strict=True)
    for v, at, to, acceleration, most in rows_:
        assert abs((to - at) / T - v) <= acceleration * T + 1e-6
        assert abs(to - at) / T <= most + 1e-6


@pytest.fixture(scope="module")
def outcomes():
    return {name: {phase: trial(fault, begin) for phase, begin in PHASES.items()} for name, fault in FAULTS.items()}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_reaches_its_state(outcomes, name, phase):
    fault, made = FAULTS[name], outcomes[name][phase]
    assert made.state == fault.state
    if fault.log_code is None:
        assert made.told == ()
        return
    assert fault.log_code in made.told
    if fault.state == "latched":
        assert made.exit_code == messages.stopped(made.told[-1]).exit_code
        assert made.told[-1] == fault.log_code
        assert made.braked_after <= fault.within
    assert made.silent == (fault.log_code in ("ROBOT_SILENT", "ROBOT_STOP", "ROBOT_UNTRUSTED"))


def test_without_a_fault_nothing_happens():
    """A negative control of the campaign itself: the motion is passed as it is."""
    made = trial(Fault("none", lambda *_: None, "running", None, 0), 0)
    assert made == Outcome("running", (), None, None, False)


def test_the_page_says_what_came_out(outcomes, hold_section):
    lines = [
        "| fault | what goes wrong | state | log codes | exit | brakes after, at most |",
        "|---|---|---|---|---|---|",
    ]
    for name, fault in FAULTS.items():
        made = outcomes[name].values()
        codes = dict.fromkeys(code for each in made for code in each.told)
        exits = sorted({each.exit_code for each in made if each.exit_code is not None})
        after = [each.braked_after for each in made if each.braked_after is not None]
        ticks = "the same tick" if after and max(after) == 0 else f"{max(after)} ticks" if after else "-"
        told, ends = ", ".join(f"`{code}`" for code in codes) or "-", ", ".join(map(str, exits)) or "-"
        lines.append(f"| {name} | {fault.name} | {fault.state} | {told} | {ends} | {ticks} |")
    hold_section("faults.md", "Motion", "\n".join(lines))
