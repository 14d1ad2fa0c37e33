"""The chunk player: what it reaches, how smoothly, and what it leaves out."""

import math

import numpy as np
import pytest

from dvgwm.robots import player

T = 0.02


def smooth(count=40):
    """Return 10 Hz targets of a motion that starts at rest, at most 1 rad/s and 2 rad/s^2."""
    times = [0.1 * (k + 1) for k in range(count)]
    return times, [(0.6 * (1 - math.cos(1.5 * t)),) for t in times]


def sampled(curve, first_s=0.0, step_s=T):
    ticks = range(round((curve.end_s - first_s) / step_s) + 1)
    return np.asarray([player.sample(curve, first_s + k * step_s)[0] for k in ticks])


def test_targets_are_reached_at_their_times():
    times, targets = smooth()
    curve = player.track(0.0, (0.0,), (0.0,), times, targets)
    for time_s, target in zip(times, targets, strict=True):
        assert player.sample(curve, time_s) == pytest.approx(target, abs=1e-12)


def test_the_velocity_has_no_kink_at_a_target():
    times, targets = smooth()
    curve = player.track(0.0, (0.0,), (0.0,), times, targets)
    tiny = 1e-6
    for time_s in times[:-1]:
        left, here, right = (player.sample(curve, time_s + d)[0] for d in (-tiny, 0.0, tiny))
        assert (here - left) / tiny == pytest.approx((right - here) / tiny, abs=1e-3)


def test_the_curve_starts_at_the_commanded_position_and_velocity():
    times, targets = smooth()
    curve = player.track(0.0, (0.02,), (0.3,), times, targets)
    assert player.sample(curve, 0.0) == (0.02,)
    assert (player.sample(curve, 1e-6)[0] - 0.02) / 1e-6 == pytest.approx(0.3, abs=1e-3)


def test_smooth_actions_stay_within_four_radians_per_second_squared():
    times, targets = smooth()
    values = sampled(player.track(0.0, (0.0,), (0.0,), times, targets))
    speed = np.diff(np.concatenate([[0.0], values])) / T
    assert np.abs(np.diff(speed)).max() / T < 4.0


def test_targets_that_are_past_are_left_out():
    times, targets = smooth(10)
    curve = player.track(0.5, (0.1,), (0.0,), times, targets)
    assert curve.times_s == (0.5, *times[5:])
    assert curve.positions == ((0.1,), *targets[5:])
    assert player.track(1.0, (0.1,), (0.0,), times, targets) is None
    assert player.track(0.0, (0.1,), (0.0,), (), ()) is None


def test_nothing_is_extrapolated():
    times, targets = smooth(10)
    curve = player.track(0.0, (0.0,), (0.0,), times, targets)
    assert player.sample(curve, times[-1] + 1e-12) == pytest.approx(targets[-1]), "a tick's rounding is not the end"
    assert player.sample(curve, times[-1] + 1e-6) is None
    assert player.sample(curve, math.inf) is None


def test_the_curve_never_overshoots_its_targets():
    curve = player.track(0.0, (0.0,), (0.0,), (0.1, 0.2, 0.3, 0.4), ((0.0,), (1.0,), (1.0,), (0.0,)))
    values = [player.sample(curve, 0.001 * k)[0] for k in range(401)]
    assert min(values) >= -1e-12
    assert max(values) <= 1.0 + 1e-12
    assert player.sample(curve, 0.41) is None


@pytest.mark.parametrize("before_s", [0.499, 0.0, -1.0, -1e300, -math.inf])
def test_before_its_start_it_waits_there(before_s):
    curve = player.track(0.5, (0.1,), (0.3,), (0.6, 0.7), ((0.2,), (0.3,)))
    assert player.sample(curve, before_s) == (0.1,)


def test_at_no_time_there_is_no_position():
    assert player.sample(player.track(0.0, (0.1,), (0.0,), (0.1,), ((0.2,),)), math.nan) is None
