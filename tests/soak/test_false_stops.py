"""Simulated hours of motion in which nothing is wrong: how often is the arm stopped all the same?

A policy's chunks go through the whole core on a virtual clock: from where the arm is to places about home, with the jitter of
learned actions, some of them faster than joints and tool can follow; measured joints lag and are noisy; states, frames and
signs of life are as old as they get on a healthy machine. Every stop is a false one.
"""

import random
from dataclasses import dataclass, field, replace

import pytest

from dvgwm.robots import motion
from dvgwm.robots.a1_model import A1, SAFETY
from dvgwm.robots.motion import JointChunk, Mailbox

T = A1.period_s
HOME = (0.0, 1.58, -1.14, 1.57, -1.13, 0.0, 0.5)
REACH = (0.3, 0.15, 0.15, 0.2, 0.2, 0.4, 0.4)
TICKS_PER_HOUR = round(3600 / T)


@dataclass
class Told:
    """What was told, by log code, and how often the arm was latched."""

    codes: dict[str, int] = field(default_factory=dict)
    stops: int = 0


def draw_chunk(rng, sequence, now_s, position, jitter=1.0):
    """Return a chunk to a place about home, ten actions a second; the wrist's are the roughest, as the shipped policy's are."""
    count = rng.choice((10, 20, 48))
    goal = [home + rng.uniform(-reach, reach) for home, reach in zip(HOME, REACH, strict=True)]
    rows = []
    for k in range(1, count + 1):
        u = min(1.0, k / max(12.0, 0.7 * count))
        share = u * u * (3.0 - 2.0 * u)
        noise = [jitter * rng.gauss(0.0, 0.02 if joint == 5 else 0.004) for joint in range(7)]
        rows.append(tuple(at + (to - at) * share + n for at, to, n in zip(position, goal, noise, strict=True)))
    times_s = tuple(now_s + 0.1 * k for k in range(1, count + 1))
    return JointChunk(sequence, times_s, tuple(rows), now_s - rng.uniform(0.0, 0.15))


def live(seed, ticks, limits=SAFETY):
    """Return what was told in so many ticks; a human re-arms a latched arm at once."""
    rng, told = random.Random(seed), Told()
    core, chunk, next_s, lagging = motion.start(limits, T, HOME), None, 0.0, [HOME] * 4
    for tick in range(ticks):
        now_s = tick * T
        if now_s >= next_s:
            chunk = draw_chunk(rng, tick, now_s, core.gate.position)
            next_s = chunk.times_s[-1] + rng.choice((0.0, 0.1, 0.5))
        measured = tuple(q + rng.gauss(0.0, 0.001) for q in rng.choice(lagging[1:]))
        ages = (rng.uniform(0.0, age_s) for age_s in (0.04, 0.12, 0.06))
        seen = Mailbox(chunk, False, measured, *(now_s - age_s for age_s in ages))
        core, verdict, event = motion.step(core, now_s, seen)
        lagging = [*lagging[1:], verdict.position]
        if event is not None:
            told.codes[event.log_code] = told.codes.get(event.log_code, 0) + 1
        if core.gate.latched is not None:
            told.stops += 1
            core = replace(motion.start(limits, T, core.gate.position), now_s=now_s, sequence=core.sequence)
            next_s = now_s
    return told


@pytest.mark.parametrize("part", range(4))
def test_an_arm_that_nothing_is_wrong_with_is_not_stopped(part, soak):
    """Three simulated minutes; twenty hours with ``--soak``."""
    told = live(soak.seed * 10 + part, 5 * TICKS_PER_HOUR if soak.all else TICKS_PER_HOUR // 80)
    assert told.stops == 0
    assert set(told.codes) <= {"MOTION_FAST", "MOTION_TOOL_FAST", "MOTION_WORKSPACE"}, "slowed down at most"
    assert "MOTION_FAST" in told.codes, "some of it is too fast"


def test_limits_that_are_too_tight_stop_it():
    """A negative control: an arm that may lag by no more than its sensors' noise."""
    assert live(0, 2000, replace(SAFETY, tracking=(0.002,) * 7)).stops > 0
