"""What the runtime asks of robots and cameras, whoever makes them: an arm, real or simulated, its driver, spec and camera."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .types import ActionChunk, ArmEvent, Check, ImageArray, MotionRecord, Observation


class Arm(Protocol):
    """What the loop sees of a robot: motion and gate are behind it."""

    def observe(self) -> Observation:
        """Return the newest observation; raises `CameraLostError` or `RobotCommunicationError`."""

    def play(self, chunk: ActionChunk) -> None:
        """Play ``chunk`` through motion and gate; returns when its last action is reached or the arm has braked."""

    def events(self) -> Sequence[ArmEvent]:
        """Return the events since the last call, oldest first."""

    def recorded(self) -> MotionRecord:
        """Return the last half minute of motion."""

    def stop(self) -> None:
        """Brake and hold."""

    def close(self) -> None:
        """Let go of the robot and its cameras."""


class Shown(Protocol):
    """A camera's frame with the time when it was taken, on the machine's monotonic clock."""

    @property
    def at_s(self) -> float:
        """When it was taken."""

    @property
    def image(self) -> ImageArray:
        """Its pixels."""


class Camera(Protocol):
    """A camera that is read by somebody else: its newest frame is there when it is asked for."""

    @property
    def recorded(self) -> bool:
        """Whether it shows a recording: no arm may move by it."""

    def latest(self) -> Shown:
        """Return the newest frame, never an old one; raises `CameraLostError`."""

    def frame_s(self) -> float | None:
        """Return when the newest frame was taken, without waiting for one."""

    def close(self) -> None:
        """Let go of it."""


class LiveArm(Arm, Protocol):
    """A real arm. It is locked at first: it is seen, and sent nothing."""

    @property
    def about(self) -> str:
        """What was found at its address, in words."""

    def checks(self) -> Sequence[Check]:
        """Look for a second, and return what has to be so before it moves."""

    def arm(self) -> None:
        """Take hold of it where it is; raises `RobotCommunicationError`, `RobotStopError` or `GateLatchError`."""


class Scene(Protocol):
    """A simulated world, which tells the truth."""

    @property
    def instruction(self) -> str:
        """The sentence that names the scene's goal."""

    @property
    def other_instruction(self) -> str:
        """A sentence that asks for something else of the same scene."""

    @property
    def renderer(self) -> str:
        """How its camera images are made."""

    def solved(self) -> bool:
        """Return whether the goal is reached now."""

    def heeds(self, instruction: str) -> bool | None:
        """Return whether, of several things, the one that ``instruction`` names moved furthest; None where it names none."""


class SimulatedArm(Arm, Protocol):
    """An arm whose clock is virtual, in a scene."""

    @property
    def scene(self) -> Scene:
        """The world around it."""

    def hold(self, seconds: float) -> None:
        """Let time pass while the arm comes to rest and holds."""


class Simulation(Protocol):
    """How a robot is simulated (`dvgwm.robots.spec.Simulation`)."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it can be simulated at, the default one first."""

    @property
    def rehearse(self) -> Callable[[str, int, int, int], Sequence[Observation]]:
        """What is seen while a scripted expert does a task: its name, the layout's seed, the images' height and width."""


class RobotSpec(Protocol):
    """What the runtime asks of a robot that an entry point names (`dvgwm.robots.spec.RobotSpec`)."""

    @property
    def name(self) -> str:
        """The robot's name."""

    @property
    def simulation(self) -> Simulation | None:
        """How it is simulated, None if it is not."""


class Robot(Protocol):
    """A driver; matches lerobot's robots by structure. Positions are flat dictionaries such as ``{"joint_1.pos": 0.1}``."""

    def connect(self, calibrate: bool = True) -> None:
        """Open the connection; nothing moves."""

    def get_observation(self) -> dict[str, Any]:
        """Return joint positions and camera frames."""

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Command the robot and return what was really sent."""

    def disconnect(self) -> None:
        """Close the connection."""
