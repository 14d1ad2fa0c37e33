"""How late the motion process' ticks are beside a planner that holds its interpreter's lock on every core."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")

pytestmark = [pytest.mark.sim, pytest.mark.slow]
PERIOD_S = 0.02
BURNING = "x = 0\nwhile True: x += 1"


def test_ticks_go_on_beside_work_that_fills_every_core(started, soak, capsys):
    """For two seconds; for a minute with ``--soak``, in which no tick may be later than one period."""
    motion = started()
    motion.pass_time(1.0)
    burning = [subprocess.Popen([sys.executable, "-c", BURNING]) for _ in range(os.cpu_count())]
    try:
        first = len(motion.states)
        motion.pass_time(60.0 if soak.all else 2.0)
    finally:
        for each in burning:
            each.kill()
            each.wait()
    at_s = np.array([at_s for at_s, _ in motion.states[first:]])
    late_ms = 1e3 * np.maximum(np.diff(at_s) - PERIOD_S, 0.0)
    with capsys.disabled():
        if soak.all:
            p50, p99, p999 = np.quantile(late_ms, (0.5, 0.99, 0.999))
            print(
                f"\n{len(late_ms)} ticks beside {len(burning)} busy processes: late by {p50:.2f} ms (median), {p99:.2f} (p99), "
                f"{p999:.2f} (p99.9), {late_ms.max():.2f} (at most)"
            )
            assert late_ms.max() < 1e3 * PERIOD_S
    assert len(at_s) > 20, "it goes on"
