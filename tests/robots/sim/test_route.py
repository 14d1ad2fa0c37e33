import numpy as np
import pytest

from dvgwm.robots.sim.route import TOOL_SPEED_M_S, Waypoint, minimum_jerk, route_through

A = Waypoint(0.3, 0.0, 0.1, 0.0, 1.0)
B = Waypoint(0.4, 0.1, 0.1, 0.5, 1.0)
C = Waypoint(0.4, 0.1, 0.02, 0.5, 0.4, blend=0.5)


def test_minimum_jerk_starts_and_ends_at_rest():
    t = np.linspace(0.0, 1.0, 10_001)
    way = minimum_jerk(t)
    velocity, acceleration = np.gradient(way, t), np.gradient(np.gradient(way, t), t)
    assert (way[0], way[-1]) == (0.0, 1.0)
    assert abs(velocity[[0, -1]]).max() < 1e-3
    assert abs(acceleration[[0, -1]]).max() < 1e-1
    assert velocity.max() == pytest.approx(1.875, abs=1e-3)
    assert np.abs(acceleration).max() == pytest.approx(5.7735, abs=1e-2)


def test_route_passes_its_ends_and_stays_at_the_last():
    route = route_through([A, B, C])
    ends = route.sample(np.array([-1.0, 0.0, route.duration_s, route.duration_s + 5.0]))
    assert ends[:2] == pytest.approx(np.tile(A.coordinates, (2, 1)))
    assert ends[2:] == pytest.approx(np.tile(C.coordinates, (2, 1)))


def test_blended_moves_overlap():
    first, second = route_through([A, B, C]).moves
    assert second.start_s == pytest.approx(first.end_s - 0.5 * min(first.duration_s, second.duration_s))


def test_single_moves_keep_the_tools_speed():
    route = route_through([A, B])
    times = np.linspace(0.0, route.duration_s, 2001)
    speed = np.linalg.norm(np.diff(route.sample(times)[:, :3], axis=0), axis=1) / np.diff(times)
    assert speed.max() <= TOOL_SPEED_M_S * 1.0001
