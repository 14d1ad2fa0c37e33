"""The MJCF text of the arm: links, gripper, wrist camera and position servos, from the joint origins and limits.

Only the fingers and the brush touch things; the links are there to be seen and to weigh. What touches
nothing has a body of its own: MuJoCo leaves it out of the bounding boxes that rays are tested against.
"""

from collections.abc import Sequence

import numpy as np

from dvgwm.runtime.types import DoubleArray

from ..chain import Origin
from ..kinematics import origin_transform, rotation_vector
from .cameras import WRIST_CAMERA

FINGER_TRAVEL_M = 0.03
"""How far each finger slides: the opening 1 is a gap of twice that."""

LINK_RADII_M = (0.045, 0.04, 0.035, 0.034, 0.03, 0.027)
LINK_MASSES_KG = (0.9, 1.4, 0.6, 0.8, 0.4, 0.3)
JOINT_GAINS = (3000.0, 3000.0, 3000.0, 800.0, 800.0, 400.0)
DARK, ACCENT, PAD = "0.20 0.22 0.26 1", "0.32 0.35 0.40 1", "0.04 0.42 0.46 1"

BRUSH = """
<geom name="brush" type="box" size="0.007 0.055 0.014" pos="0 0 0.002" rgba="0.15 0.35 0.75 1" mass="0.05"
      friction="0.6 0.005 0.0001"/>
"""

FINGERS = f"""
<body name="finger_left" pos="0 0.006 0" gravcomp="1">
  <joint name="finger_left" type="slide" axis="0 1 0" range="0 {FINGER_TRAVEL_M}" damping="2"/>
  <geom type="box" size="0.012 0.006 0.036" pos="0 0 0.024" rgba="{PAD}" mass="0.05" friction="1.6 0.02 0.001"/>
</body>
<body name="finger_right" pos="0 -0.006 0" gravcomp="1">
  <joint name="finger_right" type="slide" axis="0 -1 0" range="0 {FINGER_TRAVEL_M}" damping="2"/>
  <geom type="box" size="0.012 0.006 0.036" pos="0 0 0.024" rgba="{PAD}" mass="0.05" friction="1.6 0.02 0.001"/>
</body>
"""


def text(numbers: Sequence[float] | DoubleArray) -> str:
    """Return numbers as MJCF writes them."""
    return " ".join(f"{float(number):.9g}" for number in numbers)


def quaternion(rotation: DoubleArray) -> str:
    """Return a 3 x 3 rotation as an MJCF quaternion, w first."""
    vector = rotation_vector(rotation)
    angle = float(np.linalg.norm(vector))
    axis = vector / angle if angle > 0.0 else vector
    return text((np.cos(angle / 2), *(np.sin(angle / 2) * axis)))


def arm_body(origins: Sequence[Origin], tool: DoubleArray, limits: Sequence[tuple[float, float]], brush: bool) -> str:
    """Return the arm as nested MJCF bodies on the world's origin; with ``brush`` the gripper holds one."""
    inner = _hand(tool, brush)
    ends = [position for position, _ in origins[1:]] + [(0.0, 0.0, float(tool[2, 3]) - 0.09)]
    for index in reversed(range(len(origins))):
        inner = _link(index, origins[index], ends[index], limits[index], inner)
    base = f'<geom class="arm" type="cylinder" fromto="0 0 0 0 0 0.09" size="0.06" rgba="{DARK}"/>'
    return f'<body name="base">{base}{inner}</body>'


def servos(limits: Sequence[tuple[float, float]]) -> str:
    """Return the position servos: one per joint in wire order, then the two fingers."""
    lines = [
        f'<position joint="joint_{i + 1}" kp="{gain}" dampratio="1" ctrlrange="{text(limits[i])}"/>'
        for i, gain in enumerate(JOINT_GAINS)
    ]
    lines += [
        f'<position joint="finger_{side}" kp="600" dampratio="1" ctrlrange="0 {FINGER_TRAVEL_M}" forcerange="-15 15"/>'
        for side in ("left", "right")
    ]
    return "".join(lines)


def _link(index: int, origin: Origin, end: tuple[float, float, float], limit: tuple[float, float], inner: str) -> str:
    frame = origin_transform(origin)
    colour = ACCENT if index % 2 else DARK
    return f"""
<body name="link_{index + 1}" pos="{text(frame[:3, 3])}" quat="{quaternion(frame[:3, :3])}" gravcomp="1">
  <joint name="joint_{index + 1}" axis="0 0 1" range="{text(limit)}" armature="0.05"/>
  <geom class="arm" type="capsule" fromto="0 0 0 {text(end)}" size="{LINK_RADII_M[index]}" rgba="{colour}"
        mass="{LINK_MASSES_KG[index]}"/>
  {inner}
</body>"""


def _hand(tool: DoubleArray, brush: bool) -> str:
    return f"""
<body name="hand" pos="{text(tool[:3, 3])}" quat="{quaternion(tool[:3, :3])}" gravcomp="1">
  <body name="palm" gravcomp="1">
    <geom class="arm" type="box" size="0.022 0.045 0.016" pos="0 0 0.074" rgba="{ACCENT}" mass="0.25"/>
  </body>
  {WRIST_CAMERA.mjcf}
  {FINGERS}
  {BRUSH if brush else ""}
</body>"""
