"""Signals to the motion process at any phase of a motion: the arm brakes, the process ends with the signal's code."""

import itertools
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")

pytestmark = [pytest.mark.sim, pytest.mark.slow, pytest.mark.thorough]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
REST_S, END_S = 1.0, 2.0
BESIDE_OTHERS_S = 20.0
"""In the test suite every core has work of its own."""


@dataclass(frozen=True)
class Trial:
    """Which signal comes how long after the arm began to move, and whether it comes again while the arm brakes."""

    number: signal.Signals
    after_s: float
    twice: bool


@dataclass(frozen=True)
class Outcome:
    """Seconds from the signal to rest and to the end of the process, whether the gate had latched, and what is wrong."""

    rest_s: float
    end_s: float
    latched: bool
    wrong: tuple[str, ...]


def draw(rng):
    """Return a trial; the swing lasts 1.5 s, then the arm holds."""
    return Trial(rng.choice(list(CODES)), rng.uniform(0.0, 1.8), rng.random() < 0.25)


def outcome(start, folder, trial):
    """Return what came of a trial."""
    folder.mkdir()
    motion = start(folder=folder)
    try:
        motion.play(1.5)
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
        wrong = [f"exit {code}"] * (code != CODES[trial.number])
        wrong += ["not at rest"] * bool(not states[-1][1].resting or (places[-1] != places[-2]).any())
        wrong += ["too hard a brake"] * bool((np.abs(np.diff(steps[:, :6], axis=0)) > 4.0 * 0.02 + 1e-6).any())
        wrong += [said] if (said := motion.process.stderr.read()) else []
        return Outcome(rest_s, end_s, states[-1][1].latched, tuple(wrong))
    finally:
        motion.close()


def test_whenever_a_signal_comes_the_arm_is_at_rest_and_the_process_ends(motion_process, tmp_path, soak, capsys):
    """Fifty of them; a thousand with ``--soak``, which also holds rest and end against their times."""
    rng, count = random.Random(soak.seed), 1000 if soak.all else 50
    trials = [draw(rng) for _ in range(count)]
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda k: outcome(motion_process, tmp_path / str(k), trials[k]), range(count)))
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
