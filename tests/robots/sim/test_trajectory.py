import numpy as np
import pytest

from dvgwm.robots import player
from dvgwm.robots.sim.trajectory import _sampled


def test_all_ticks_at_once_are_what_the_player_plays_one_by_one():
    random = np.random.default_rng(0)
    due_s = tuple(0.1 * n for n in range(1, 9))
    curve = player.track(0.0, (0.1, 0.2, 0.3), (0.0, 0.5, -0.5), due_s, random.uniform(-1, 1, (8, 3)).tolist())
    times_s = np.append(0.02 * np.arange(41), due_s[-1] + 1e-12)
    one_by_one = [player.sample(curve, float(time_s)) for time_s in times_s]
    assert _sampled(curve, times_s) == pytest.approx(np.array(one_by_one), abs=1e-12)
