"""lerobot's interface, both ways, matched by structure: its robots behind motion and gate, and ours where its are expected.

The interface is that of lerobot 0.4 to 0.6 (`lerobot.robots.Robot`); lerobot itself is not needed.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dvgwm.runtime.errors import ConfigError, GateLatchError, RobotCommunicationError
from dvgwm.runtime.seams import LiveArm
from dvgwm.runtime.types import ActionChunk, Check

from .host import place
from .spec import ArmModel, JointState

MEMBERS = (
    "name",
    "observation_features",
    "action_features",
    "is_connected",
    "connect",
    "get_observation",
    "send_action",
    "disconnect",
)
"""What is used of lerobot's robots."""
FIRST_S = 3.0
AHEAD_S = 0.1


class LerobotRobot(Protocol):
    """What is asked of a robot of lerobot's."""

    name: str

    @property
    def observation_features(self) -> dict[str, Any]:
        """Names and types of what it observes."""

    @property
    def action_features(self) -> dict[str, Any]:
        """Names and types of what it takes."""

    @property
    def is_connected(self) -> bool:
        """Whether it is open."""

    def connect(self, calibrate: bool = True) -> None:
        """Open it."""

    def get_observation(self) -> dict[str, Any]:
        """Return joint positions and camera frames."""

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Command it, and return what was really sent."""

    def disconnect(self) -> None:
        """Close it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """How a robot counts one joint: it says ``zero`` where we say 0, and ``per`` more for each radian, or whole opening."""

    per: float = 1.0
    zero: float = 0.0


class LerobotDriver:
    """A robot of lerobot's as a driver; implements `dvgwm.robots.spec.RealRobot`.

    It is read and commanded by one thread, one call after the other, as fast as it answers: its bus may be slow, motion is not
    kept waiting. ``units`` are those of joints that are not counted in radians. It is never calibrated from here, where an arm
    lets go of its torque and waits for a person. Raises `ConfigError` for an object that lacks a member, or whose joints are
    others than the model's.
    """

    def __init__(self, robot: LerobotRobot, model: ArmModel, id: str, units: Mapping[str, Unit] | None = None) -> None:
        if missing := [name for name in MEMBERS if not hasattr(robot, name)]:
            raise ConfigError("ROBOT_INTERFACE", f"wanted a robot of lerobot's, got one without {', '.join(missing)}")
        keys = {f"{name}.pos" for name in model.joint_names}
        for what in ("action_features", "observation_features"):
            known = {key for key in getattr(robot, what) if key.endswith(".pos")}
            if known != keys:
                raise ConfigError(
                    "ROBOT_JOINTS", f"wanted {what} {', '.join(sorted(keys))}, got {', '.join(sorted(known)) or 'none'}"
                )
        self.robot, self.name, self.id = robot, robot.name, id
        self._units = [(f"{name}.pos", (units or {}).get(name, Unit())) for name in model.joint_names]
        self._wanted: dict[str, float] | None = None
        self._seen: JointState | None = None
        self._failure: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def identities(self) -> Sequence[str]:
        """Return the device that its bus is at, where its configuration names one, else its id."""
        port = getattr(getattr(self.robot, "config", None), "port", None)
        return [place(port) if isinstance(port, str) else f"lerobot {self.id}"]

    def connect(self, calibrate: bool = False) -> None:
        """Open it, and wait until it has told where it is.

        Raises `ConfigError` for one that is not calibrated, before it is read, `RobotCommunicationError` for a silent one.
        """
        self.robot.connect(calibrate=False)
        if not getattr(self.robot, "is_calibrated", True):
            self.robot.disconnect()
            raise ConfigError(
                "ROBOT_UNCALIBRATED",
                f"{self.name} is not calibrated, and is never calibrated from here; hold the arm and do it with lerobot: "
                f"lerobot-calibrate --robot.type={self.name} --robot.port=PORT --robot.id={self.id}",
            )
        self._thread.start()
        end_s = time.monotonic() + FIRST_S
        while self._seen is None:
            if time.monotonic() > end_s:
                raise RobotCommunicationError("ARM_CONNECT", f"{self.name} told nothing within {FIRST_S:g} s")
            self._raise()
            time.sleep(0.005)

    def about(self) -> str:
        """Return what it is."""
        return f"{self.name}, by lerobot's interface"

    def state(self) -> JointState:
        """Return where it last said it is; raises what its own calls raised."""
        self._raise()
        assert self._seen is not None, "connect waits for it"
        return self._seen

    def engage(self) -> None:
        """Nothing to do: it takes commands from the first one on."""

    def get_observation(self) -> dict[str, Any]:
        """Return the joint positions in our units."""
        return {key: at for (key, _), at in zip(self._units, self.state().positions, strict=True)}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Have it go there as soon as it listens; raises what its own calls raised."""
        self._raise()
        self._wanted = {key: unit.zero + unit.per * float(action[key]) for key, unit in self._units}
        return action

    def disconnect(self) -> None:
        """Close it, once the call that it is in has returned."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(FIRST_S)
        self.robot.disconnect()

    def _serve(self) -> None:
        try:
            while not self._ended.is_set():
                asked_s = time.monotonic()
                seen = self.robot.get_observation()
                places = tuple((float(seen[key]) - unit.zero) / unit.per for key, unit in self._units)
                self._seen = JointState(places, asked_s)
                if (wanted := self._wanted) is not None:
                    self.robot.send_action(dict(wanted))
        except Exception as error:  # a vendor's own; told where it is asked for next
            self._failure = error

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure


class GatedRobot:
    """An arm of ours with the interface of lerobot's robots: whatever commands it, motion and gate are in between.

    ``open_arm`` opens it, locked; ``confirm`` is shown what has to be so, and says whether a person armed it. ``camera`` is the
    name of the camera that it is seen by, and ``shape`` that of its frames.
    """

    config_class = None
    is_calibrated = True

    def __init__(
        self,
        model: ArmModel,
        open_arm: Callable[[], LiveArm],
        confirm: Callable[[Sequence[Check]], bool],
        camera: str,
        shape: tuple[int, int, int],
    ) -> None:
        self.name, self._model, self._open, self._confirm = model.name, model, open_arm, confirm
        self._camera, self._shape = camera, shape
        self._arm: LiveArm | None = None

    def __enter__(self) -> "GatedRobot":
        self.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self.disconnect()

    @property
    def observation_features(self) -> dict[str, Any]:
        """Names and types of what it observes: joints, and the camera's frames."""
        return {**self.action_features, self._camera: self._shape}

    @property
    def action_features(self) -> dict[str, type]:
        """Names and types of what it takes: joint positions in radians, the gripper's opening as a share."""
        return {f"{name}.pos": float for name in self._model.joint_names}

    @property
    def is_connected(self) -> bool:
        """Whether it is open."""
        return self._arm is not None

    def connect(self, calibrate: bool = True) -> None:
        """Open the arm, and arm it; raises `GateLatchError` where something is not so, or nobody says yes."""
        arm = self._open()
        try:
            checks = arm.checks()
            if not all(check.fine for check in checks) or not self._confirm(checks):
                raise GateLatchError("ARM_UNREADY", "the arm was not armed; nothing was sent to it")
            arm.arm()
        except BaseException:
            arm.close()
            raise
        self._arm = arm

    def calibrate(self) -> None:
        """Nothing to do: our arms know where they are."""

    def configure(self) -> None:
        """Nothing to do."""

    def get_observation(self) -> dict[str, Any]:
        """Return joint positions and the camera's frame by name."""
        seen = self._opened().observe()
        joints = {key: float(at) for key, at in zip(self.action_features, seen.joints, strict=True)}
        return {**joints, self._camera: seen.images[self._camera]}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Have the arm go there within a tenth of a second, as far as motion and gate let it, and return where that is.

        Raises as `runtime.seams.Arm.play`.
        """
        arm = self._opened()
        target = np.array([[float(action[key]) for key in self.action_features]])
        begun = arm.observe()
        arm.play(ActionChunk(target, np.array([begun.time_s + AHEAD_S]), "joint", None, begun.time_s))
        commanded = arm.recorded().ticks[-1].commanded
        return dict(zip(self.action_features, commanded, strict=True))

    def disconnect(self) -> None:
        """Have the arm brake, and let go of it."""
        if self._arm is not None:
            arm, self._arm = self._arm, None
            arm.close()

    def _opened(self) -> LiveArm:
        if self._arm is None:
            raise RobotCommunicationError("ARM_CLOSED", f"{self.name} is not open; connect it first")
        return self._arm
