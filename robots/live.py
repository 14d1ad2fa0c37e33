"""A real arm: its motion and driver in a process of their own, its camera in another, and the way from locked to armed."""

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dvgwm.runtime.errors import DvgwmError
from dvgwm.runtime.seams import Camera
from dvgwm.runtime.types import Check, ImageArray

from . import link, motion
from .arm import OnFrame
from .link import Kind
from .remote import RemoteArm
from .spec import DriveOptions, RobotSpec, driven

LOOK_S, LOOKS_S = 1.0, 0.02
"""For how long camera and robot are looked at before it is armed, and how often."""
ARM_S = 10.0


class CameraEyes:
    """The eyes of a real arm: one camera, under the bundle's name for it."""

    def __init__(self, camera: Camera, name: str) -> None:
        self.camera, self.frame_s, self._name = camera, camera.frame_s, name

    def images(self, state: link.State) -> Mapping[str, ImageArray]:
        """Return the newest frame."""
        return {self._name: self.camera.latest().image}

    def close(self) -> None:
        """Leave the camera to whoever opened it."""


class RealArm(RemoteArm):
    """A real arm, locked until `arm`; implements `runtime.seams.LiveArm`.

    With ``dry_run`` nothing is ever sent, and the arm is shown at its unsent commands.
    """

    def __init__(
        self,
        spec: RobotSpec,
        options: DriveOptions,
        camera: Camera,
        camera_name: str,
        dry_run: bool,
        on_frame: OnFrame | None = None,
    ) -> None:
        self._camera, self._pose = camera, tuple[float, ...]()
        order = {"drive": asdict(options), "mute": dry_run}
        super().__init__(spec.arm, order, CameraEyes(camera, camera_name), on_frame)

    def checks(self) -> Sequence[Check]:
        """Look for a second, and return the conditions of arming."""
        try:
            self._camera.latest()
        except DvgwmError as error:
            return [Check("camera", False, str(error)), *self._arm_checks([self._known()[1]], 0.0)]
        frame_s = state_s = 0.0
        states, end_s = [self._known()[1]], self.time_s + LOOK_S
        while self.time_s < end_s:
            time.sleep(LOOKS_S)
            states.append(self._known()[1])
            frame_s = max(frame_s, time.monotonic() - (self._camera.frame_s() or 0.0))
            state_s = max(state_s, self.time_s - states[-1].measured_s)
        most_s = self.model.limits.frame_age_s
        found = f"for {LOOK_S:g} s frames at most {frame_s * 1000:.0f} ms old"
        remedy = f"wanted at most {most_s * 1000:.0f} ms: a faster camera, a better cable, fewer other programs"
        return [Check("camera", frame_s <= most_s, found, remedy), *self._arm_checks(states, state_s)]

    def arm(self) -> None:
        """Have motion take hold of the arm where `checks` saw it.

        Raises `CameraLostError`, or as `serve.begin`; then nothing was sent.
        """
        # A full garbage collection may last longer than motion waits for a sign of life: what is there is left out of it.
        gc.collect()
        gc.freeze()
        self._camera.latest()
        self._say(Kind.ARM, link.pack_pose(self._pose))
        self._wait(lambda: self._state is not None and self._state[1].armed, ARM_S, "take hold of the arm")

    def _arm_checks(self, states: Sequence[link.State], state_s: float) -> Iterator[Check]:
        """Yield the conditions of arming on the robot's side, from its ``states``; none was older than ``state_s`` seconds."""
        limits, newest = self.model.limits, states[-1]
        if self.said:
            yield Check("robot", False, self.said, "clear that at the robot, never from here")
        else:
            remedy = f"wanted at most {limits.state_age_s * 1000:.0f} ms: look at the robot's driver and its cable"
            yield Check(
                "robot",
                state_s <= limits.state_age_s,
                f"{self.about}; states at most {state_s * 1000:.0f} ms old",
                remedy,
            )
        places = np.array([state.measured for state in states if len(state.measured) == limits.joints.dof])
        if not len(places):
            yield Check("pose", False, "the robot has not told where it is", "look at its driver")
            return
        moved = np.ptp(places, axis=0)
        joint = int(np.argmax(moved / limits.jump))
        if moved[joint] > limits.jump[joint]:
            found = f"{self.model.joint_names[joint]} moved by {moved[joint]:.3f} while it was looked at"
            yield Check("pose", False, found, "let go of the arm, and end what else moves it")
            return
        try:
            motion.start(limits, self.model.period_s, newest.measured)
        except DvgwmError as error:
            yield Check("pose", False, str(error))
            return
        self._pose = newest.measured
        place = " ".join(f"{position:.2f}" for position in newest.measured)
        yield Check("pose", True, f"{place}, at rest and inside its limits")


def open_live_arm(
    spec: RobotSpec,
    *,
    address: str,
    settings: Mapping[str, Any],
    camera: Camera,
    camera_name: str,
    dry_run: bool,
    on_frame: OnFrame | None = None,
) -> RealArm:
    """Return the real robot of ``spec`` at ``address``, locked; the camera stays open when it is closed.

    Raises `ConfigError` for a robot without a driver, an address or settings that are none, `RobotCommunicationError`.
    """
    options = DriveOptions(address, settings)
    driven(spec, options)  # what makes no sense is told before a process is started
    return RealArm(spec, options, camera, camera_name, dry_run, on_frame)
