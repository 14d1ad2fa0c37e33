"""A Franka through franky, which keeps libfranka's thousand cycles a second: joint positions in, joint targets out.

The controller stops by itself where 20 cycles in a row are missing. A reflex or a stop is told, and never recovered from here.
"""

import importlib
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dvgwm.runtime.arrivals import Arrivals
from dvgwm.runtime.errors import ConfigError, DvgwmError, RobotCommunicationError, RobotStopError

from .franka_model import FRANKA, JOINT_NAMES
from .host import endpoint, ip_address
from .settings import settings
from .spec import DriveOptions, JointState

PORT = 1337
"""Of FCI, which libfranka knows by itself."""
HAND_SPEED_M_S, HAND_STEP_M, HAND_PERIOD_S = 0.1, 0.002, 0.05
WELL = ("Idle", "Move")
MODES = {
    "Reflex": "it stopped by a reflex",
    "UserStopped": "its stop button is pressed",
    "Guiding": "it is guided by hand",
    "AutomaticErrorRecovery": "it recovers from an error",
}


@dataclass(frozen=True, slots=True)
class FrankaSettings:
    """What a settings file may say: whether there is a hand, and whether a real-time kernel is insisted on."""

    hand: bool = True
    realtime: bool = True


class Franka:
    """A real Franka, by its controller's address; implements `dvgwm.robots.spec.RealRobot`."""

    name = "franka"

    def __init__(self, options: DriveOptions) -> None:
        self.settings = settings(options, FrankaSettings)
        self.id = ip_address(options.address)
        self._franky: Any = None
        self._robot: Any = None
        self._hand: Hand | None = None
        self._arrivals, self._opening = Arrivals(), 1.0
        self._joints: tuple[float, ...] = ()
        self._joints_s = 0.0
        self._sent: list[float] | None = None

    def identities(self) -> Sequence[str]:
        """Return the controller's endpoint."""
        return [endpoint(self.id, PORT)]

    def connect(self, calibrate: bool = True) -> None:
        """Listen to the controller; nothing moves. Raises what `mapped` makes of libfranka's errors."""
        try:
            self._franky = importlib.import_module("franky")
        except ImportError as error:
            raise ConfigError(
                "FRANKA_MISSING",
                f"a Franka wants franky, which cannot be imported ({error}): pip install 'dvgwm[franka]'",
            ) from error
        config = self._franky.RealtimeConfig
        try:
            self._robot = self._franky.Robot(
                self.id, realtime_config=config.Enforce if self.settings.realtime else config.Ignore
            )
            if self.settings.hand:
                self._hand = Hand(self._franky.Gripper(self.id))
                self._hand.start()
        except Exception as error:
            raise mapped(error) from error

    def about(self) -> str:
        """Return what was found, in words."""
        clock = f"; {self._arrivals.said}" if self._arrivals.said else ""
        return f"Franka controller {self.id}, {'with' if self._hand is not None else 'without'} a hand{clock}"

    def state(self) -> JointState:
        """Return what the controller last told; raises as `connect`, or what the hand's own calls raised."""
        try:
            seen = self._robot.state
        except Exception as error:
            raise mapped(error) from error
        made_s = self._arrivals.made_s(seen.time.to_sec(), time.monotonic())
        if made_s is not None:
            self._joints, self._joints_s = tuple(map(float, seen.q)), made_s
        if self._hand is not None:
            self._opening = self._hand.told()
        return JointState((*self._joints, self._opening), self._joints_s, stop(seen), self._arrivals.fault)

    def engage(self) -> None:
        """Nothing to do: the first target takes control."""

    def get_observation(self) -> dict[str, Any]:
        """Return the joint positions (``joint_1.pos`` ..)."""
        return {f"{name}.pos": value for name, value in zip(JOINT_NAMES, self.state().positions, strict=True)}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Send joint targets (radians), with the speed at which they are passed, and the hand's (0..1); raises as `connect`."""
        *joints, opening = (float(action[f"{name}.pos"]) for name in JOINT_NAMES)
        before = self._sent or joints
        speeds = [(to - at) / FRANKA.period_s for to, at in zip(joints, before, strict=True)]
        franky = self._franky
        try:
            target = franky.JointState(joints, speeds)
            self._robot.poll_motion()
            self._robot.move(franky.JointMotion(target, return_when_finished=False), asynchronous=True)
        except Exception as error:
            raise mapped(error) from error
        self._sent = joints
        if self._hand is not None:
            self._hand.move(opening)
        else:
            self._opening = opening
        return action

    def disconnect(self) -> None:
        """Have the arm stop, and let go of it."""
        if self._hand is not None:
            self._hand.end()
        if self._robot is not None and self._robot.is_in_control:
            with suppress(Exception):  # it has stopped by itself
                self._robot.stop()


class Hand:
    """Franka's hand, on a thread of its own: its calls wait until the fingers are where they are to be."""

    def __init__(self, gripper: Any) -> None:
        self._gripper, self._wide_m = gripper, float(gripper.max_width)
        self._width_m = self._wanted_m = float(gripper.width)
        self._failure: Exception | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Look at it, and move it where it is wanted, from now on."""
        threading.Thread(target=self._serve, daemon=True).start()

    def told(self) -> float:
        """Return its opening, 0 to 1; raises what its own calls raised, as `mapped`."""
        if self._failure is not None:
            raise mapped(self._failure)
        return self._width_m / self._wide_m

    def move(self, opening: float) -> None:
        """Have it go there soon."""
        self._wanted_m = self._wide_m * min(max(opening, 0.0), 1.0)

    def end(self) -> None:
        """Leave it where it is."""
        self._ended.set()

    def _serve(self) -> None:
        sent_m = self._wanted_m
        try:
            while not self._ended.wait(HAND_PERIOD_S):
                wanted_m = self._wanted_m
                if abs(wanted_m - sent_m) > HAND_STEP_M:
                    sent_m = wanted_m
                    self._gripper.move(wanted_m, HAND_SPEED_M_S)
                self._width_m = float(self._gripper.width)
        except Exception as error:
            self._failure = error


def stop(state: Any) -> str | None:
    """Return why a Franka has stopped itself, by its state, None while it has not."""
    errors = [name for name in dir(state.current_errors) if not name.startswith("_")]
    if said := [name.replace("_", " ") for name in errors if getattr(state.current_errors, name) is True]:
        return ", ".join(said)
    mode = state.robot_mode.name
    return None if mode in WELL else MODES.get(mode, f"it is in mode {mode}")


def mapped(error: Exception) -> DvgwmError:
    """Return an error of libfranka's, by the name of its class, as one of ours."""
    if isinstance(error, DvgwmError):
        return error
    kind, said = type(error).__name__, f"{type(error).__name__}: {error}"
    if kind == "IncompatibleVersionException":
        return ConfigError("FRANKA_VERSION", f"{said}; install the franky-control that fits the robot's firmware")
    if kind == "RealtimeException":
        return ConfigError(
            "FRANKA_REALTIME", f"{said}; boot a real-time kernel, or set realtime = false in --arm-settings"
        )
    if kind in ("ControlException", "CommandException"):
        return RobotStopError("FRANKA_STOPPED", f"{said}; clear that at the robot, never from here")
    return RobotCommunicationError("FRANKA_LOST", f"{said}; look at its cable, and whether FCI is on")
