"""The UR7e with a Robotiq 2F-85 as a robot that dvgwm knows: there is no simulation of it, and a driver of the real one."""

from .spec import DriveOptions, RealRobot, RobotSpec
from .ur7e_model import UR7E


def drive(options: DriveOptions) -> RealRobot:
    """Return the driver of the real arm at its controller's address, with `ur7e_rtde.UrSettings`; nothing is opened."""
    from .ur7e_rtde import Ur7e

    return Ur7e(options)


ROBOT = RobotSpec(UR7E, drive=drive)
