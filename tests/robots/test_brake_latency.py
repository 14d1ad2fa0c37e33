"""How many ticks pass between a fault and the brake: ten thousand events at random moments of a motion, on a virtual clock.

A fault is there from a tick on; the tick whose command is the first of a full brake answers it. What has an age (a sign of
life, a robot's state, a frame) was last renewed at that tick, and is answered once it is too old.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from dvgwm.robots import braking, motion
from dvgwm.robots.a1_model import A1, SAFETY
from dvgwm.robots.motion import JointChunk, Mailbox

T = A1.period_s
HOME = (0.0, 1.58, -1.14, 1.57, -1.13, 0.0, 0.5)
EVENTS, TICKS, LONGEST = 10_000, 600, 60


@dataclass(frozen=True)
class Kind:
    """A kind of fault: what it changes in a mailbox, given the time it began and a random source, and the ticks it may take."""

    name: str
    change: Callable[[Mailbox, float, random.Random], Mailbox]
    most: int


def spoiled(spoil):
    """Return the change that puts a chunk into the mailbox which ``spoil`` made of a sound one."""

    def change(box, began_s, rng):
        rows = [list(box.measured) for _ in range(10)]
        spoil(rows, rng)
        times_s = tuple(began_s + 0.1 * (k + 1) for k in range(10))
        return replace(box, chunk=JointChunk(10**6, times_s, tuple(map(tuple, rows)), began_s))

    return change


def number(value):
    def spoil(rows, rng):
        rows[rng.randrange(10)][rng.randrange(7)] = value

    return spoiled(spoil)


def far(rows, rng):
    for row in rows:
        row[rng.randrange(6)] += rng.choice((-1, 1)) * rng.uniform(0.8, 2.0)


def short(rows, rng):
    rows[rng.randrange(10)].pop()


def frozen(field):
    return lambda box, began_s, rng: replace(box, **{field: began_s})


def measured(value):
    def change(box, began_s, rng):
        joints = list(box.measured)
        joints[rng.randrange(7)] = value
        return replace(box, measured=tuple(joints))

    return change


KINDS = (
    Kind("a command that is no number", number(math.nan), 0),
    Kind("a command that is infinite", number(-math.inf), 0),
    Kind("a command of another number of joints", spoiled(short), 0),
    Kind("a chunk that begins elsewhere, or in other units", spoiled(far), 0),
    Kind("the robot stops itself", lambda box, began_s, rng: replace(box, stopped=True), 0),
    Kind("the robot cannot be relied on", lambda box, began_s, rng: replace(box, untrusted=True), 0),
    Kind("a measured joint that is no number", measured(math.nan), 0),
    Kind("the robot does not answer", frozen("measured_s"), 4),
    Kind("who plans is gone or hangs", frozen("heartbeat_s"), 5),
    Kind("the camera stalls", frozen("frame_s"), 8),
)


def nominal():
    """Return the core before every tick of a motion that is sound, and the mailboxes."""
    core, rows = motion.start(SAFETY, T, HOME), []
    for tick in range(TICKS):
        number_, now_s = tick // 100, tick * T
        begin_s = 2.0 * number_
        times_s = tuple(begin_s + 0.1 * k for k in range(1, 21))
        targets = tuple(
            tuple(at + 0.1 * (1 - math.cos((1.2 + 0.1 * j) * t)) for j, at in enumerate(HOME)) for t in times_s
        )
        box = Mailbox(JointChunk(number_, times_s, targets, begin_s), False, core.gate.position, now_s, now_s, now_s)
        rows.append((core, box))
        core, _, event = motion.step(core, now_s, box)
        assert event is None
    return rows


def braked(before, after):
    """Whether the command is the one of a full brake, of an arm that moves."""
    position, _ = braking.slower(SAFETY.joints, T, before.position, before.velocity)
    return after.position == position


def latency(rows, first, kind, rng):
    """Return after how many ticks a fault that begins at tick ``first`` is answered by a brake."""
    core, seed, began_s = rows[first][0], rng.random(), first * T
    for tick in range(first, first + LONGEST):
        _, box = rows[tick]
        now_s = tick * T
        known = replace(box, measured=core.gate.position, measured_s=now_s)
        before = core.gate
        core, _, _ = motion.step(core, now_s, kind.change(known, began_s, random.Random(seed)))
        if braked(before, core.gate) and (core.gate.latched is not None or core.pause is not None):
            return tick - first
    pytest.fail(f"{kind.name} at tick {first} was not answered")


@pytest.fixture(scope="module")
def latencies():
    rows, rng = nominal(), random.Random(18)
    moving = [tick for tick in range(1, TICKS - LONGEST) if any(rows[tick][0].gate.velocity)]
    made = {kind: [] for kind in KINDS}
    for event in range(EVENTS):
        kind = KINDS[event % len(KINDS)]
        made[kind].append(latency(rows, rng.choice(moving), kind, rng))
    return made


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_fault_is_answered_by_a_brake_in_time(latencies, kind):
    assert max(latencies[kind]) <= kind.most


def test_the_page_says_how_late(latencies, hold_section):
    lines = ["| what goes wrong | events | p99.9, ticks | at most, ticks |", "|---|---|---|---|"]
    for kind, ticks in latencies.items():
        p999 = np.quantile(ticks, 0.999, method="higher")
        lines.append(f"| {kind.name} | {len(ticks)} | {p999} | {max(ticks)} |")
    hold_section("faults.md", "How late the arm brakes", "\n".join(lines))
