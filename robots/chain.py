"""Where a serial arm's tool is, and how it moves, for given joints. Standard library only: the gate stands on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, sin

Vector = tuple[float, float, float]
Origin = tuple[Vector, Vector]
"""A joint's origin in its parent's frame: x, y, z in metres, then roll, pitch, yaw about fixed axes in radians."""


@dataclass(frozen=True, slots=True)
class Link:
    """A joint's frame in its parent's: the position in metres, and the rotation's three columns."""

    position_m: Vector
    x: Vector
    y: Vector
    z: Vector


@dataclass(frozen=True, slots=True)
class Chain:
    """Revolute joints about z, from the base on; ``tool_m`` is the tool's position in the last joint's frame."""

    links: tuple[Link, ...]
    tool_m: Vector


def chain(origins: Sequence[Origin], tool_m: Vector) -> Chain:
    """Return the chain of joints with these origins (URDF's convention); the tool is at ``tool_m`` in the last one's frame."""
    return Chain(tuple(_link(position, *angles) for position, angles in origins), tool_m)


def tool(arm: Chain, joints: Sequence[float]) -> tuple[Vector, tuple[Vector, ...]]:
    """Return the tool's position in metres in the base's frame, and per joint how it moves with it, in metres per radian.

    ``joints`` are angles in radians, one per link; what comes behind them (a gripper) is not looked at.
    """
    at, x, y, z = (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
    pivots, axes = [], []
    for link, angle in zip(arm.links, joints, strict=False):
        at = _moved(at, x, y, z, link.position_m)
        x, y, z = _turned(x, y, z, link.x), _turned(x, y, z, link.y), _turned(x, y, z, link.z)
        pivots.append(at)
        axes.append(z)
        c, s = cos(angle), sin(angle)
        (x0, x1, x2), (y0, y1, y2) = x, y
        x = c * x0 + s * y0, c * x1 + s * y1, c * x2 + s * y2
        y = c * y0 - s * x0, c * y1 - s * x1, c * y2 - s * x2
    end = _moved(at, x, y, z, arm.tool_m)
    return end, tuple(_cross(axis, end, pivot) for axis, pivot in zip(axes, pivots, strict=True))


def _turned(x: Vector, y: Vector, z: Vector, v: Vector) -> Vector:
    a, b, c = v
    return a * x[0] + b * y[0] + c * z[0], a * x[1] + b * y[1] + c * z[1], a * x[2] + b * y[2] + c * z[2]


def _moved(at: Vector, x: Vector, y: Vector, z: Vector, v: Vector) -> Vector:
    by = _turned(x, y, z, v)
    return at[0] + by[0], at[1] + by[1], at[2] + by[2]


def _cross(axis: Vector, end: Vector, pivot: Vector) -> Vector:
    a, b, c = axis
    x, y, z = end[0] - pivot[0], end[1] - pivot[1], end[2] - pivot[2]
    return b * z - c * y, c * x - a * z, a * y - b * x


def _link(position_m: Vector, roll: float, pitch: float, yaw: float) -> Link:
    cr, sr, cp, sp, cy, sy = cos(roll), sin(roll), cos(pitch), sin(pitch), cos(yaw), sin(yaw)
    return Link(
        position_m,
        (cy * cp, sy * cp, -sp),
        (cy * sp * sr - sy * cr, sy * sp * sr + cy * cr, cp * sr),
        (cy * sp * cr + sy * sr, sy * sp * cr - cy * sr, cp * cr),
    )
