"""A simulated robot whose motion, gate and physics are another process: what plans looks at a mirror of its world."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.seams import Scene
from dvgwm.runtime.types import ImageArray

from . import link
from .arm import OnFrame
from .remote import RemoteArm
from .spec import RobotSpec, SimulationOptions, simulated


class Mirror:
    """The eyes of a simulated robot that is simulated elsewhere: its cameras look at a mirror of that world."""

    def __init__(self, spec: RobotSpec, options: SimulationOptions) -> None:
        robot: Any = simulated(spec, options)
        if not hasattr(robot, "mirror"):
            raise ConfigError("PROCESS_MIRROR", f"the simulated {spec.name} cannot be mirrored; leave --process out")
        robot.connect()
        self.robot, self.close = robot, robot.disconnect

    def images(self, state: link.State) -> Mapping[str, ImageArray]:
        """Return what the cameras see of the state's world."""
        self.robot.mirror(state.world)
        images: Mapping[str, ImageArray] = self.robot.images()
        return images

    def frame_s(self) -> None:
        """Nothing is waited for: what is simulated can be looked at any time."""


class MirroredArm(RemoteArm):
    """A simulated robot whose motion, gate and physics run elsewhere; implements `runtime.seams.SimulatedArm`."""

    def __init__(self, spec: RobotSpec, options: SimulationOptions, on_frame: OnFrame | None = None) -> None:
        mirror = Mirror(spec, options)
        self.scene: Scene = mirror.robot
        super().__init__(spec.arm, {"options": asdict(options)}, mirror, on_frame)


def open_mirrored_arm(
    spec: RobotSpec, *, task: str, seed: int, height_px: int, width_px: int, on_frame: OnFrame | None = None
) -> MirroredArm:
    """`arm.open_arm` with motion, gate and physics in a process of their own, in real time."""
    return MirroredArm(spec, SimulationOptions(task, seed, height_px, width_px), on_frame)
