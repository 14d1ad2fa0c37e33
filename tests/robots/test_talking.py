"""A driver whose library writes without end: no tick waits for it, whoever reads or does not."""

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")

from dvgwm.runtime import child

pytestmark = [pytest.mark.sim, pytest.mark.slow]
PERIOD_S = 0.02
TALKING = """
import os, sys, threading
from dataclasses import replace
from dvgwm.robots.galaxea_a1 import ROBOT as A1
from dvgwm.robots.sim.driver import MujocoRobot

class Robot(MujocoRobot):
    def send_action(self, action):
        os.write(1, b"a command was sent\\n" * 540)
        print("a command was sent\\n" * 540, file=sys.stderr)
        return super().send_action(action)

ROBOT = replace(A1, arm=replace(A1.arm, name="talking"), simulation=replace(A1.simulation, simulate=Robot))
"""


@pytest.mark.thorough
def test_motion_goes_on_beside_a_library_that_writes_without_end(install, motion_process, soak, capsys):
    """Ten kilobytes a tick on both streams for eight seconds, a hundred times what two pipes hold; ten minutes with ``--soak``,
    in which no tick may be later than one period."""
    install("talking", TALKING, {"robots": "talking = talking:ROBOT"})
    motion = motion_process(robot="talking")
    try:
        motion.pass_time(0.5)
        first = len(motion.states)
        for sequence in range(1, 200 if soak.all else 3):
            motion.play(3.0, sequence)
            motion.pass_time(2.5)
        at_s = np.array([at_s for at_s, _ in motion.states[first:]])
        late_s = np.diff(at_s) - PERIOD_S
        assert not motion.state.latched
        assert np.abs(np.ptp([state.commanded[0] for _, state in motion.states])) > 0.3
        assert "a command was sent" in motion.child.said()
        assert len(motion.child.said()) <= child.MOST_BYTES
        with capsys.disabled():
            if soak.all:
                print(
                    f"\n{len(late_s)} ticks in {at_s[-1] - at_s[0]:.0f} s, the latest {1e3 * late_s.max():.2f} ms late"
                )
                assert late_s.max() < PERIOD_S
        assert len(late_s) > 200
    finally:
        motion.close()
