"""A robot as motion sees it: simulated or real, silent where its driver fails, and where it is told to be in a dry run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Protocol

from dvgwm.runtime.errors import DvgwmError, RobotCommunicationError

from .spec import JointState, MirroredRobot, RealRobot


class Plant(Protocol):
    """What motion moves: a simulated world, or a real robot."""

    def connect(self) -> None:
        """Open it; nothing moves."""

    def about(self) -> str:
        """Return what was found when it was opened, in words."""

    def state(self) -> JointState:
        """Return what the robot last told."""

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Command the joints and return what was really sent."""

    def engage(self) -> None:
        """Take control of it."""

    def tick(self) -> None:
        """Let a period pass, where time does not pass by itself."""

    def world(self) -> tuple[float, ...]:
        """Return the numbers that make up a simulated world, none of the real one."""

    def disconnect(self) -> None:
        """Let go of it."""


class SimulatedPlant:
    """A simulated robot, whose physics runs here."""

    def __init__(self, robot: MirroredRobot, period_s: float) -> None:
        self.connect, self.disconnect = robot.connect, robot.disconnect
        self.send_action, self.world = robot.send_action, robot.world
        self._robot, self._period_s = robot, period_s

    def about(self) -> str:
        """Return that it is simulated."""
        return "simulated"

    def state(self) -> JointState:
        """Return its joints, which are known at any time."""
        return JointState(self._robot.positions(), time.monotonic())

    def engage(self) -> None:
        """Nothing to do."""

    def tick(self) -> None:
        """Let physics run."""
        self._robot.advance(self._period_s)


class RealPlant:
    """A real robot, whose time passes by itself. Opening it calibrates nothing: an arm may let go of its torque there."""

    def __init__(self, robot: RealRobot) -> None:
        self.connect, self.disconnect = partial(robot.connect, calibrate=False), robot.disconnect
        self.state, self.send_action = robot.state, robot.send_action
        self.about, self.engage = robot.about, robot.engage

    def tick(self) -> None:
        """Nothing to do."""

    def world(self) -> tuple[float, ...]:
        """Return nothing."""
        return ()


@dataclass(slots=True)
class Driver:
    """A robot as motion sees it: one that raises is a robot that does not answer, whatever it raises.

    Times are of motion's clock, which began at ``origin_s`` of the machine's. ``answered_s`` is when the robot told where it is
    and the last command was taken, ``failure`` what was raised since, ``stop`` why the robot has stopped itself, ``untrusted``
    why it cannot be relied on (`spec.JointState`). A ``mute``
    driver sends nothing, and shows an arm that is where it was last commanded to, ``unsent``.
    """

    plant: Plant
    joint_names: Sequence[str]
    origin_s: float
    mute: bool = False
    measured: tuple[float, ...] = ()
    answered_s: float = -inf
    stop: str | None = None
    untrusted: str | None = None
    failure: str | None = None
    unsent: tuple[float, ...] = ()

    @property
    def now_s(self) -> float:
        """The time now."""
        return time.monotonic() - self.origin_s

    @property
    def said(self) -> str:
        """What is wrong with the robot, in its own words, nothing while all is well."""
        return self.stop or self.untrusted or self.failure or ""

    @property
    def about(self) -> str:
        """What was found when the robot was opened, in words; nothing where it does not tell."""
        try:
            return self.plant.about()
        except Exception:
            return ""

    def connect(self) -> None:
        """Open the robot; raises `RobotCommunicationError` for whatever a vendor's library raises."""
        _own_errors(self.plant.connect)

    def engage(self) -> None:
        """Take control of the robot, unless it is sent nothing; raises as `connect`."""
        if not self.mute:
            _own_errors(self.plant.engage)

    def disconnect(self) -> None:
        """Let go of the robot; what goes wrong then is past."""
        try:
            self.plant.disconnect()
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"

    def read(self) -> None:
        """Ask where the robot is."""
        try:
            seen = self.plant.state()
        except BaseException as error:  # sys.exit of a library too: motion ends at rest, and by nobody else's wish
            self.failure = f"{type(error).__name__}: {error}"
            return
        self.stop, self.untrusted = seen.stop, seen.untrusted
        self.measured = self.unsent or seen.positions
        if self.failure is None:
            self.answered_s = seen.at_s - self.origin_s

    def send(self, position: Sequence[float]) -> None:
        """Send a command; the next measurement counts only if it was taken."""
        if self.mute:
            self.unsent = tuple(position)
            return
        try:
            self.plant.send_action({f"{name}.pos": q for name, q in zip(self.joint_names, position, strict=True)})
            self.failure = None
        except BaseException as error:
            self.failure = f"{type(error).__name__}: {error}"


def _own_errors(call: Callable[[], None]) -> None:
    try:
        call()
    except DvgwmError:
        raise
    except Exception as error:  # a vendor's own
        raise failed(f"{type(error).__name__}: {error}") from error


def failed(what: str) -> RobotCommunicationError:
    """Return the error of a driver that went on failing."""
    return RobotCommunicationError("ROBOT_DRIVER", f"the driver failed: {what}; look at the arm first")
