"""Signals to the motion process at any phase of a motion: the arm brakes, the process ends with the signal's code."""

import itertools
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")

from dvgwm.robots.process import HARMLESS
from dvgwm.runtime.child import catchable_signals

pytestmark = [pytest.mark.sim, pytest.mark.slow, pytest.mark.thorough]
ENDING = sorted(catchable_signals() - HARMLESS - {signal.SIGPIPE, signal.SIGXFSZ})
"""All signals that end or stop a process; Python ignores SIGPIPE and SIGXFSZ."""
COMMON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
REST_S, END_S = 1.0, 2.0
BESIDE_OTHERS_S = 20.0
"""In the test suite every core has work of its own."""


@dataclass(frozen=True)
class Trial:
    """Which signal comes how long after the arm began to move, and whether it comes again while the arm brakes."""

    number: int
    after_s: float
    twice: bool


@dataclass(frozen=True)
class Outcome:
    """Seconds from the signal to rest and to the end of the process, whether the gate ever latched, and what is wrong."""

    rest_s: float
    end_s: float
    latched: bool
    wrong: tuple[str, ...]


def draw(rng, index):
    """Return a trial; the swing lasts 1.5 s, then the arm holds. Every signal comes once, then the common ones."""
    number = ENDING[index] if index < len(ENDING) else rng.choice(COMMON)
    return Trial(int(number), rng.uniform(0.0, 1.8), rng.random() < 0.25)


def moving(start):
    """Return a motion process whose arm moves, and whether one before it latched, because this planner was kept from its
    signs of life: where two processes are begun from one, or where tests run beside this one."""
    for again in (False, True, True, True):
        motion = start()
        try:
            motion.play(1.5)
            return motion, again
        except AssertionError:
            motion.close()
            if not motion.state.latched:
                raise
    pytest.fail("it latched four times before it moved")


def outcome(start, trial):
    """Return what came of a trial."""
    motion, again = moving(start)
    try:
        motion.pass_time(trial.after_s)
        told_s = motion.now_s
        motion.process.send_signal(trial.number)
        if trial.twice:
            threading.Timer(0.02, motion.process.send_signal, [trial.number]).start()
        code = motion.ended(BESIDE_OTHERS_S)
        end_s = motion.now_s - told_s
        states = motion.states
        resting = list(itertools.takewhile(lambda told: told[1].resting, reversed(states)))
        rest_s = max(0.0, resting[-1][0] - told_s) if resting else np.inf
        places = np.array([state.commanded for _, state in states])
        steps = np.diff(places[-60:], axis=0) / 0.02
        wrong = [f"exit {code}"] * (code != 128 + trial.number)
        wrong += ["not at rest"] * bool(not states[-1][1].resting or (places[-1] != places[-2]).any())
        wrong += ["too hard a brake"] * bool((np.abs(np.diff(steps[:, :6], axis=0)) > 4.0 * 0.02 + 1e-6).any())
        wrong += [said] if (said := motion.child.said()) else []
        return Outcome(rest_s, end_s, again or states[-1][1].latched, tuple(wrong))
    finally:
        motion.close()


def test_whenever_a_signal_comes_the_arm_is_at_rest_and_the_process_ends(motion_process, soak, capsys):
    """A hundred of them, every one that a process can hear among them; a thousand with ``--soak``, which also holds rest and
    end against their times."""
    rng, count = random.Random(soak.seed), 1000 if soak.all else 100
    trials = [draw(rng, index) for index in range(count)]
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda trial: outcome(motion_process, trial), trials))
    wrong = [f"{trial}: {', '.join(each.wrong)}" for trial, each in zip(trials, made, strict=True) if each.wrong]
    rest_s, end_s = np.array([each.rest_s for each in made]), np.array([each.end_s for each in made])
    with capsys.disabled():
        if soak.all:
            print(
                f"\n{count} signals in {time.monotonic() - begun:.0f} s: at rest after {np.median(rest_s):.3f} s, at most "
                f"{rest_s.max():.3f} s; ended after {np.median(end_s):.3f} s, at most {end_s.max():.3f} s"
            )
    assert not wrong
    if soak.all:
        assert rest_s.max() < REST_S
        assert end_s.max() < END_S
        assert not any(each.latched for each in made), "beside others a planner may well be silent for too long"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_that_was_ignored_before_is_no_reason_to_end(motion_process, number):
    """As SIGHUP is under nohup."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        motion = motion_process()
    finally:
        signal.signal(number, before)
    try:
        motion.play(1.5)
        motion.process.send_signal(number)
        motion.pass_time(0.3)
        assert motion.process.poll() is None
        assert not motion.state.resting
    finally:
        motion.close()


def test_motion_has_a_session_of_its_own(motion_process):
    """No key at a terminal reaches it: what a terminal sends goes to a process group of its own session."""
    motion = motion_process()
    try:
        pid = motion.process.pid
        assert (os.getsid(pid), os.getpgid(pid)) == (pid, pid)
        assert os.getsid(pid) != os.getsid(0)
    finally:
        motion.close()
