"""What makes a robot known to dvgwm: names, limits, kinematics, and how to simulate or drive it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from dvgwm.runtime.errors import ConfigError, DvgwmError
from dvgwm.runtime.seams import Robot, Scene
from dvgwm.runtime.types import DoubleArray, ImageArray, Observation

from .limits import SafetyLimits

Options = TypeVar("Options")
Made = TypeVar("Made")


class Kinematics(Protocol):
    """Where the tool is for given joints, and the other way round (radians, metres, rotation vectors)."""

    def forward(self, joints: DoubleArray) -> DoubleArray:
        """Return the tool's pose: x, y, z and a rotation vector in the robot's base frame."""

    def inverse(self, pose: DoubleArray, near: DoubleArray) -> tuple[DoubleArray, bool]:
        """Return joints near ``near`` whose tool pose is closest to ``pose``, and whether it is reached."""


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """Which scene to simulate: a task's name, the layout's seed and the size of the camera images."""

    task: str
    seed: int
    height_px: int
    width_px: int


class SimulatedRobot(Robot, Scene, Protocol):
    """A driver whose clock moves only when told to, and the scene that it is in."""

    @property
    def time_s(self) -> float:
        """The virtual clock."""

    def positions(self) -> tuple[float, ...]:
        """Return the measured joint positions in radians, the gripper opening (0..1) last."""

    def images(self) -> Mapping[str, ImageArray]:
        """Return one uint8 H W 3 frame per camera."""

    def advance(self, seconds: float) -> None:
        """Let physics run for ``seconds`` with the last command held."""


class MirroredRobot(SimulatedRobot, Protocol):
    """A simulated robot whose world can be told in numbers: one in motion's process has its mirror where the cameras are."""

    def world(self) -> tuple[float, ...]:
        """Return the numbers that make up the world now."""

    def mirror(self, world: Sequence[float]) -> None:
        """Take over the world of another one in the same scene."""


@dataclass(frozen=True, slots=True)
class JointState:
    """What a real robot last told: its joints, the gripper last, and when that came, on the machine's monotonic clock.

    ``stop`` says in words why the robot has stopped itself, None while it has not. ``untrusted`` says why what it tells, or who
    commands it, cannot be relied on: a message that does not say what it must, a second one who tells or commands.
    """

    positions: tuple[float, ...]
    at_s: float
    stop: str | None = None
    untrusted: str | None = None


class RealRobot(Robot, Protocol):
    """A driver of a real robot. Everything that it opens and waits for, it waits for in ``connect``.

    One that has ``identities() -> Sequence[str]`` says with it what the robot is, however its address is spelt: one runtime has
    each of them at a time. Without it that is what is at the address (`host.place`).
    """

    @property
    def id(self) -> str:
        """What tells this robot from others of its kind, in words."""

    def about(self) -> str:
        """Return what ``connect`` found, in words."""

    def state(self) -> JointState:
        """Return what the robot last told, without waiting for it to tell anything new."""

    def engage(self) -> None:
        """Take control of it, once a person armed it: the first thing that it is sent, which may take seconds."""


@dataclass(frozen=True, slots=True)
class DriveOptions:
    """Which real robot to open: its address, and what the driver's settings file says."""

    address: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArmModel:
    """What motion and gate need to know of an arm: joints in wire order with the gripper last, a command per period."""

    name: str
    joint_names: tuple[str, ...]
    limits: SafetyLimits
    period_s: float
    kinematics: Kinematics


@dataclass(frozen=True, slots=True)
class Simulation:
    """How a robot is simulated: its ``tasks``, the default one first, and what makes it at one of them.

    ``rehearse`` shows how a scripted expert does a task (its name, the layout's seed, height and width of the images): what
    is seen every tenth of a second.
    """

    tasks: tuple[str, ...]
    simulate: Callable[[SimulationOptions], SimulatedRobot]
    rehearse: Callable[[str, int, int, int], Sequence[Observation]]


@dataclass(frozen=True, slots=True)
class RobotSpec:
    """Everything the rest of the system needs to know of one robot; what an entry point of `dvgwm.robots` names.

    A robot can be simulated, or driven, or both. ``drive`` makes its driver, without opening anything, and raises
    `ConfigError` for an address or a setting that has no sense.
    """

    arm: ArmModel
    simulation: Simulation | None = None
    drive: Callable[[DriveOptions], RealRobot] | None = None

    @property
    def name(self) -> str:
        """The robot's name."""
        return self.arm.name


def simulated(spec: RobotSpec, options: SimulationOptions) -> SimulatedRobot:
    """Return the robot of ``spec`` at a task; raises `ConfigError` for one that cannot be simulated."""
    if spec.simulation is None:
        raise ConfigError("ROBOT_UNSIMULATED", f"{spec.name} is not simulated; --live --arm ADDRESS drives a real one")
    return _made(spec, spec.simulation.simulate, options)


def driven(spec: RobotSpec, options: DriveOptions) -> RealRobot:
    """Return the driver of a real one at an address, nothing opened yet; raises `ConfigError` where it has none."""
    if spec.drive is None:
        raise ConfigError("ROBOT_UNDRIVEN", f"{spec.name} has no driver of a real one; leave --live out")
    return _made(spec, spec.drive, options)


def _made(spec: RobotSpec, make: Callable[[Options], Made], options: Options) -> Made:
    """Return what ``make`` makes; raises `ConfigError` for whatever goes wrong in a package of somebody else's."""
    try:
        return make(options)
    except DvgwmError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError("ROBOT_BROKEN", f"{spec.name} cannot be made: {type(error).__name__}: {error}") from error
