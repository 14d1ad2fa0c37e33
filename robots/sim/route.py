"""A smooth path of the tool through waypoints: minimum-jerk moves that overlap a little, timed by speed limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np

from dvgwm.runtime.types import DoubleArray

PEAK_VELOCITY = 1.875
PEAK_ACCELERATION = 5.7735
"""Peaks of a minimum-jerk move in units of distance / duration and distance / duration^2 (Flash and Hogan 1985)."""

TOOL_SPEED_M_S = 0.25
TOOL_ACCELERATION_M_S2 = 0.6
TURN_SPEED_RAD_S = 0.8
GRIPPER_SPEED_S = 1.7
GRIPPER_ACCELERATION_S2 = 8.0
SHORTEST_MOVE_S = 0.25


@dataclass(frozen=True, slots=True)
class Waypoint:
    """Where the tool is to be, pointing straight down: metres, its turn about the vertical, the gripper opening (0..1).

    ``blend`` is the share of the shorter of the two moves during which the move to this waypoint overlaps the one before.
    """

    x_m: float
    y_m: float
    z_m: float
    yaw_rad: float
    opening: float
    blend: float = 0.0

    @property
    def coordinates(self) -> tuple[float, float, float, float, float]:
        """x, y, z, turn and opening."""
        return self.x_m, self.y_m, self.z_m, self.yaw_rad, self.opening


@dataclass(frozen=True, slots=True)
class Move:
    """A minimum-jerk move by ``change`` (x, y, z, turn, opening) from ``start_s`` on."""

    change: DoubleArray
    start_s: float
    duration_s: float

    @property
    def end_s(self) -> float:
        """When it ends."""
        return self.start_s + self.duration_s


@dataclass(frozen=True, slots=True)
class Route:
    """Moves from a first waypoint on; their sum is the path."""

    start: Waypoint
    moves: tuple[Move, ...]

    @property
    def duration_s(self) -> float:
        """When the last move ends."""
        return max(move.end_s for move in self.moves)

    def sample(self, times_s: DoubleArray) -> DoubleArray:
        """Return x, y, z, turn and opening at ``times_s``, float64 [N, 5]."""
        values = np.tile(np.asarray(self.start.coordinates), (len(times_s), 1))
        for move in self.moves:
            values += minimum_jerk((times_s - move.start_s) / move.duration_s)[:, None] * move.change
        return values


def minimum_jerk(fraction: DoubleArray) -> DoubleArray:
    """Return the share of the way done at a fraction of the time: 0 before, 1 after."""
    t = np.clip(fraction, 0.0, 1.0)
    return np.asarray(t**3 * (10.0 - 15.0 * t + 6.0 * t**2))


def route_through(waypoints: Sequence[Waypoint]) -> Route:
    """Return the route from the first waypoint through the others, each move as fast as its own limits allow."""
    moves: list[Move] = []
    for here, there in pairwise(waypoints):
        change = np.subtract(there.coordinates, here.coordinates)
        duration_s = shortest_duration_s(change)
        start_s = moves[-1].end_s - there.blend * min(duration_s, moves[-1].duration_s) if moves else 0.0
        moves.append(Move(change, start_s, duration_s))
    return Route(waypoints[0], tuple(moves))


def shortest_duration_s(change: DoubleArray) -> float:
    """Return the shortest time in which a move stays inside the tool's, the turn's and the gripper's limits."""
    distance_m, opening = float(np.linalg.norm(change[:3])), abs(float(change[4]))
    return max(
        PEAK_VELOCITY * distance_m / TOOL_SPEED_M_S,
        sqrt(PEAK_ACCELERATION * distance_m / TOOL_ACCELERATION_M_S2),
        PEAK_VELOCITY * abs(float(change[3])) / TURN_SPEED_RAD_S,
        PEAK_VELOCITY * opening / GRIPPER_SPEED_S,
        sqrt(PEAK_ACCELERATION * opening / GRIPPER_ACCELERATION_S2),
        SHORTEST_MOVE_S,
    )
