"""The MJCF text of the things on the table, each from a pose: cubes, fruit, a bowl, marked areas, drawers, crumbs."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, pi, sin

RED, GREEN, BLUE = "0.86 0.13 0.11 1", "0.10 0.62 0.25 1", "0.12 0.28 0.86 1"
YELLOW, ORANGE, CRIMSON = "0.98 0.80 0.10 1", "0.98 0.50 0.05 1", "0.72 0.05 0.12 1"
STEEL, SLATE, WOOD, PURPLE = "0.55 0.70 0.80 1", "0.55 0.56 0.60 1", "0.72 0.55 0.38 1", "0.48 0.20 0.55 1"
MINT = "0.55 0.82 0.62 1"

CUBE_HALF_M = 0.022
BLOCK_HALF_M = (0.03, 0.015)
"""Half the width and half the height of the block to stack on."""

BOWL_RADIUS_M = 0.062
BOWL_HEIGHT_M = 0.04
BOWL_SIDES = 10
DRAWER_DEPTH_M = 0.09
DRAWER_HEIGHT_M = 0.07
DRAWER_TRAVEL_M = 0.085
HANDLE_REACH_M = 0.026
"""Distance of the handle's centre from the drawer's front."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a thing stands on the table: metres in the robot's base frame and a turn about the vertical in radians."""

    x_m: float
    y_m: float
    yaw_rad: float = 0.0


Poses = Mapping[str, Pose]


def free_body(name: str, pose: Pose, height_m: float, geoms: str) -> str:
    """Return a body that can be moved, its origin ``height_m`` above the table."""
    half = pose.yaw_rad / 2
    return (
        f'<body name="{name}" pos="{pose.x_m:.6f} {pose.y_m:.6f} {height_m}" quat="{cos(half):.9g} 0 0 {sin(half):.9g}">'
        f"<freejoint/>{geoms}</body>"
    )


def cube(name: str, pose: Pose, colour: str, half_m: float = CUBE_HALF_M) -> str:
    """Return a cube of 2 ``half_m`` edges."""
    size = f"{half_m} {half_m} {half_m}"
    return free_body(name, pose, half_m, f'<geom type="box" size="{size}" rgba="{colour}" density="400"/>')


def block(name: str, pose: Pose, colour: str) -> str:
    """Return a wide flat block to stack on."""
    half, half_height = BLOCK_HALF_M
    geom = f'<geom type="box" size="{half} {half} {half_height}" rgba="{colour}" density="900"/>'
    return free_body(name, pose, half_height, geom)


def ball(name: str, pose: Pose, colour: str, radius_m: float, stalk: bool = False) -> str:
    """Return a round fruit that hardly rolls, with a stalk if wanted."""
    geoms = (
        f'<geom type="sphere" size="{radius_m}" rgba="{colour}" density="500" condim="6" friction="0.6 0.01 0.003"/>'
    )
    if stalk:
        top = f"0 0 {radius_m - 0.002} 0.003 0 {radius_m + 0.009}"
        geoms += f'<body><geom type="capsule" size="0.0035" fromto="{top}" rgba="0.25 0.45 0.15 1" mass="0.0001" contype="0" '
        geoms += 'conaffinity="0"/></body>'
    return free_body(name, pose, radius_m, geoms)


def banana(name: str, pose: Pose, colour: str) -> str:
    """Return a bent fruit along its own x axis."""
    shape = f'type="capsule" size="0.016" rgba="{colour}" density="500" condim="6" friction="0.6 0.02 0.004"'
    geoms = f'<geom {shape} fromto="-0.014 0 0 0.014 0 0"/>'
    for sign in (-1, 1):
        geoms += f'<geom {shape} fromto="{sign * 0.014} 0 0 {sign * 0.036} -0.012 0"/>'
    return free_body(name, pose, 0.016, geoms)


def bowl(pose: Pose, colour: str) -> str:
    """Return a fixed bowl: a floor and a ring of slanted walls."""
    middle, slant, half_height = BOWL_RADIUS_M - 0.008, 0.35, BOWL_HEIGHT_M / 2
    half_width = 1.12 * middle * sin(pi / BOWL_SIDES)
    geoms = f'<geom type="cylinder" size="{middle - 0.006} 0.003" pos="0 0 0.003" rgba="{colour}"/>'
    for side in range(BOWL_SIDES):
        turn = 2 * pi * side / BOWL_SIDES
        geoms += (
            f'<geom type="box" size="0.003 {half_width:.5f} {half_height}" rgba="{colour}" '
            f'pos="{middle * cos(turn):.5f} {middle * sin(turn):.5f} {half_height}" '
            f'euler="0 {slant} {turn:.6f}"/>'
        )
    return f'<body name="bowl" pos="{pose.x_m:.6f} {pose.y_m:.6f} 0">{geoms}</body>'


def area(name: str, pose: Pose, colour: str, half_m: float) -> str:
    """Return a marked square that lies flush on the table and touches nothing."""
    return _mark(name, pose, f'type="box" size="{half_m} {half_m} 0.001" rgba="{colour}"')


def disc(name: str, pose: Pose, colour: str, radius_m: float) -> str:
    """Return a marked circle that lies flush on the table and touches nothing."""
    return _mark(name, pose, f'type="cylinder" size="{radius_m} 0.001" rgba="{colour}"')


def _mark(name: str, pose: Pose, shape: str) -> str:
    geom = f'<geom {shape} contype="0" conaffinity="0"/>'
    return f'<body name="{name}" pos="{pose.x_m:.6f} {pose.y_m:.6f} 0">{geom}</body>'


def drawer(name: str, pose: Pose, colour: str, width_m: float) -> str:
    """Return a drawer whose front's centre is at ``pose``; it slides toward the robot and has an upright handle."""
    depth, height, half = DRAWER_DEPTH_M / 2, DRAWER_HEIGHT_M / 2, width_m / 2 - 0.004
    reach = HANDLE_REACH_M
    boxes = (
        (f"0.004 {half} {height}", f"0.004 0 {height}", colour),
        (f"{depth - 0.004} {half} 0.003", f"{depth + 0.004} 0 0.008", WOOD),
        (f"{depth} 0.003 {height - 0.01}", f"{depth} {half - 0.003} {height - 0.008}", colour),
        (f"{depth} 0.003 {height - 0.01}", f"{depth} {0.003 - half} {height - 0.008}", colour),
        (f"{reach / 2 + 0.007} 0.007 0.014", f"{-reach / 2 - 0.007} 0 0.048", colour),
    )
    geoms = "".join(
        f'<geom type="box" size="{size}" pos="{at}" rgba="{rgba}" mass="0.05"/>' for size, at, rgba in boxes
    )
    joint = (
        f'<joint name="{name}" type="slide" axis="-1 0 0" range="0 {DRAWER_TRAVEL_M}" damping="4" frictionloss="0.3"/>'
    )
    return f'<body name="{name}" pos="{pose.x_m:.6f} {pose.y_m:.6f} 0">{joint}{geoms}</body>'


def cabinet(pose: Pose, width_m: float) -> str:
    """Return the fixed frame, open above, around drawers of ``width_m`` in all; ``pose`` is the middle of its front."""
    depth, half = DRAWER_DEPTH_M / 2 + 0.01, width_m / 2 + 0.006
    top = DRAWER_HEIGHT_M + 0.008
    boxes = (
        (f"{depth - 0.005} 0.004 {top / 2}", f"{depth + 0.005} {half} {top / 2}"),
        (f"{depth - 0.005} 0.004 {top / 2}", f"{depth + 0.005} {-half} {top / 2}"),
        (f"0.004 {half} {top / 2}", f"{2 * depth} 0 {top / 2}"),
    )
    geoms = "".join(
        f'<geom type="box" size="{size}" pos="{at}" rgba="0.86 0.78 0.66 1" contype="0" conaffinity="0"/>'
        for size, at in boxes
    )
    return f'<body name="cabinet" pos="{pose.x_m:.6f} {pose.y_m:.6f} 0">{geoms}</body>'
