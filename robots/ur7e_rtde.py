"""The UR7e over RTDE, through ur-rtde: joint positions in, servo targets out, stopped by its own watchdog when nobody sends.

A protective or an emergency stop is told, and never cleared from here.
"""

import importlib
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from dvgwm.runtime.arrivals import Arrivals
from dvgwm.runtime.errors import ConfigError, RobotCommunicationError, RobotStopError

from .host import endpoint, ip_address
from .robotiq import Robotiq
from .settings import settings
from .spec import DriveOptions, JointState
from .ur7e_model import JOINT_NAMES, UR7E

PORT = 30004
ANSWER_S = 2.0
READ_HZ, CONTROL_HZ, WATCHDOG_HZ = 125.0, 500.0, 10.0
GRIPPER_S = 0.5
STOPPING_RAD_S2 = 4.0
VARIABLES = ["timestamp", "actual_q", "robot_mode", "safety_status_bits"]
RUNNING = 7
MODES = {
    -1: "no controller",
    0: "disconnected",
    1: "waits for its safety settings to be confirmed",
    2: "is starting",
    3: "is powered off",
    4: "is powered on",
    5: "has its brakes on",
    6: "is moved by hand",
}
"""Robot modes, as Universal Robots' RTDE guide numbers them."""
STOPS = {
    2: "protective stop",
    3: "recovery mode",
    4: "safeguard stop",
    5: "emergency stop of the cell",
    6: "emergency stop",
    8: "safety limit violated",
    9: "fault of the safety system",
}
"""Bits of the safety status, by the same guide."""


@dataclass(frozen=True, slots=True)
class UrSettings:
    """What a settings file may say: ``gripper`` is robotiq or none; look-ahead and gain are those of servoJ."""

    gripper: str = "robotiq"
    lookahead_s: float = 0.1
    gain: float = 300.0

    def __post_init__(self) -> None:
        if self.gripper not in ("robotiq", "none"):
            raise ConfigError("ARM_SETTINGS", f"wanted gripper robotiq or none, got {self.gripper!r}")
        for name, low, high in (("lookahead_s", 0.03, 0.2), ("gain", 100.0, 2000.0)):
            value = getattr(self, name)
            if not (isfinite(value) and low <= value <= high):
                raise ConfigError("ARM_SETTINGS", f"wanted {name} from {low:g} to {high:g}, got {value}")


class Ur7e:
    """A real UR7e, by its controller's address; implements `dvgwm.robots.spec.RealRobot`."""

    name = "ur7e"

    def __init__(self, options: DriveOptions) -> None:
        self.settings = settings(options, UrSettings)
        self.id = ip_address(options.address)
        self._receive: Any = None
        self._control: Any = None
        self._gripper: Robotiq | None = None
        self._arrivals, self._opening = Arrivals(), 1.0
        self._joints: tuple[float, ...] = ()
        self._joints_s = 0.0

    def identities(self) -> Sequence[str]:
        """Return the controller's endpoint."""
        return [endpoint(self.id, PORT)]

    def connect(self, calibrate: bool = True) -> None:
        """Listen to controller and gripper; nothing is sent that moves anything.

        Raises `ConfigError` without ur-rtde, `RobotCommunicationError` where nobody answers.
        """
        library = _library("rtde_receive")
        try:
            socket.create_connection((self.id, PORT), ANSWER_S).close()  # the library would not say who is missing
            self._receive = library.RTDEReceiveInterface(self.id, READ_HZ, VARIABLES)
        except (OSError, RuntimeError) as error:
            raise RobotCommunicationError(
                "ARM_CONNECT",
                f"no UR controller answers at {self.id}:{PORT} ({error}); look at its address and its cable",
            ) from error
        if self.settings.gripper == "robotiq":
            self._gripper = Robotiq(self.id)
            self._gripper.start()

    def about(self) -> str:
        """Return what was found, in words."""
        gripper = "Robotiq gripper" if self._gripper is not None else "no gripper"
        clock = f"; {self._arrivals.said}" if self._arrivals.said else ""
        return f"UR controller {self.id}, joint states at {READ_HZ:g} Hz, {gripper}{clock}"

    def state(self) -> JointState:
        """Return what the controller last told; raises `RobotCommunicationError` where it, or the gripper, fell silent."""
        now_s = time.monotonic()
        if not self._receive.isConnected():
            raise RobotCommunicationError("ARM_LOST", "the controller closed the connection")
        made_s = self._arrivals.made_s(self._receive.getTimestamp(), now_s)
        if made_s is not None:
            self._joints, self._joints_s = tuple(self._receive.getActualQ()), made_s
        if self._gripper is not None:
            if now_s - self._gripper.at_s > GRIPPER_S:
                raise RobotCommunicationError(
                    "ARM_GRIPPER", f"the gripper has told nothing for {now_s - self._gripper.at_s:.2f} s"
                )
            self._opening = self._gripper.opening
        return JointState((*self._joints, self._opening), self._joints_s, self._stop(), self._arrivals.fault)

    def engage(self) -> None:
        """Have the controller follow targets, and stop by itself where none come; the gripper finds its ends.

        Raises `RobotStopError` where the controller does not let itself be controlled.
        """
        library = _library("rtde_control")
        if self._gripper is not None:
            self._gripper.activate()  # first: once the watchdog is set, whoever waits for fingers is one that is gone
        try:
            self._control = library.RTDEControlInterface(self.id, CONTROL_HZ)
            watched = self._control.setWatchdog(WATCHDOG_HZ)
        except RuntimeError as error:
            raise RobotStopError(
                "ARM_CONTROL", f"the controller does not let itself be controlled ({error}); set it to remote control"
            ) from error
        if not watched:
            raise RobotStopError("ARM_WATCHDOG", "the controller did not set its watchdog; nothing is moved without")

    def get_observation(self) -> dict[str, Any]:
        """Return the joint positions (``shoulder_pan.pos`` ..)."""
        return {f"{name}.pos": value for name, value in zip(JOINT_NAMES, self.state().positions, strict=True)}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Send servo targets (radians) and the gripper's (0..1); raises `RobotCommunicationError` where they are not taken."""
        *joints, opening = (float(action[f"{name}.pos"]) for name in JOINT_NAMES)
        said = self.settings
        # A library that is not connected connects again, and lets us wait for it.
        taken = (
            self._receive.isConnected()
            and self._control.isConnected()
            and self._control.isProgramRunning()
            and self._control.servoJ(joints, 0.0, 0.0, UR7E.period_s, said.lookahead_s, said.gain)
        )
        if not taken:
            raise RobotCommunicationError("ARM_PROGRAM", "the controller took no target: its program has ended")
        if self._gripper is None:
            self._opening = opening
        else:
            self._gripper.move(opening)
        return action

    def disconnect(self) -> None:
        """Have the controller end its program, and let go of it."""
        if self._gripper is not None:
            self._gripper.close()
        if self._control is not None and self._control.isConnected() and self._control.isProgramRunning():
            self._control.servoStop(STOPPING_RAD_S2)
            self._control.stopScript()

    def _stop(self) -> str | None:
        """Return why the arm has stopped itself, None while it has not."""
        bits = self._receive.getSafetyStatusBits()
        if stops := [words for bit, words in STOPS.items() if bits >> bit & 1]:
            return ", ".join(stops)
        mode = self._receive.getRobotMode()
        if mode != RUNNING:
            return f"the robot {MODES.get(mode, f'is in mode {mode}')}"
        return (
            f"fault {self._gripper.fault} of the gripper" if self._gripper is not None and self._gripper.fault else None
        )


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            "UR_MISSING", f"a UR wants ur-rtde, which is not installed ({error}): pip install 'dvgwm[ur]'"
        ) from error
