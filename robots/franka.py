"""A Franka with its hand as a robot that dvgwm knows: there is no simulation of it, and a driver of the real one."""

from .franka_model import FRANKA
from .spec import DriveOptions, RealRobot, RobotSpec


def drive(options: DriveOptions) -> RealRobot:
    """Return the driver of the real arm at its controller's address, with `franka_fci.FrankaSettings`; nothing is opened."""
    from .franka_fci import Franka

    return Franka(options)


ROBOT = RobotSpec(FRANKA, drive=drive)
