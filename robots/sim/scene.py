"""The MJCF text of a whole scene: physics options, light, table, cameras, the arm and a layout's bodies."""

from collections.abc import Sequence

from dvgwm.runtime.types import DoubleArray

from ..chain import Origin
from .arm import arm_body, servos, text
from .cameras import SCENE_CAMERA
from .tasks import Layout

TIMESTEP_S = 0.002
TABLE = (0.90, 0.90, 0.88)


def scene_text(
    layout: Layout,
    origins: Sequence[Origin],
    tool: DoubleArray,
    limits: Sequence[tuple[float, float]],
    size_px: tuple[int, int],
) -> str:
    """Return the scene's MJCF for joint origins, a tool, joint limits in radians and images of (height, width)."""
    height_px, width_px = size_px
    return f"""
<mujoco model="galaxea_a1 {layout.task.name}">
<compiler angle="radian" eulerseq="XYZ"/>
<option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="5"/>
<visual>
  <global offheight="{height_px}" offwidth="{width_px}"/>
  <quality shadowsize="1024" offsamples="0" numslices="16" numstacks="8"/>
  <headlight ambient="0.45 0.45 0.45" diffuse="0.30 0.30 0.30" specular="0 0 0"/>
  <map znear="0.01" zfar="6"/>
</visual>
<statistic extent="1" center="0.3 0 0.1"/>
<default>
  <geom friction="0.5 0.005 0.0001" solref="0.006 1"/>
  <default class="arm"><geom contype="0" conaffinity="0"/></default>
</default>
<worldbody>
  <light pos="0.2 -0.4 1.5" dir="0.1 0.35 -1" directional="true" diffuse="0.30 0.30 0.30" ambient="0 0 0"
         specular="0 0 0" castshadow="false"/>
  <geom name="table" type="plane" size="3 3 0.1" rgba="{text(TABLE)} 1"/>
  {SCENE_CAMERA.mjcf}
  {arm_body(origins, tool, limits, layout.task.with_brush)}
  {layout.task.bodies(layout.poses)}
</worldbody>
<actuator>{servos(limits)}</actuator>
</mujoco>"""
