"""The Galaxea A1 as a robot of dvgwm: its tasks, and how to simulate and to drive it."""

from collections.abc import Sequence

from dvgwm.runtime.types import Observation

from .a1_model import A1
from .sim.tasks import TASKS
from .spec import DriveOptions, RealRobot, RobotSpec, SimulatedRobot, Simulation, SimulationOptions


def simulate(options: SimulationOptions) -> SimulatedRobot:
    """Return the simulated arm in the scene of ``options``.

    Raises `ConfigError` if MuJoCo is not installed or the task is unknown.
    """
    from .sim.driver import MujocoRobot

    return MujocoRobot(options)


def rehearse(task: str, seed: int, height_px: int, width_px: int) -> Sequence[Observation]:
    """Return the observations while the scripted expert does ``task`` on the layout of ``seed``."""
    from .sim.expert import demonstrate

    return demonstrate(SimulationOptions(task, seed, height_px, width_px)).observations


def drive(options: DriveOptions) -> RealRobot:
    """Return the driver of the real arm at a ROS master's address, with `galaxea_a1_ros.A1Settings`; nothing is opened."""
    from .galaxea_a1_ros import GalaxeaA1

    return GalaxeaA1(options)


ROBOT = RobotSpec(A1, Simulation(tuple(TASKS), simulate, rehearse), drive)
