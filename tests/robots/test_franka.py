"""The Franka's driver against an object with franky's members: no controller, and no stand-in of one, is to be had here."""

import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from dvgwm.robots import franka_fci
from dvgwm.robots.franka import ROBOT
from dvgwm.robots.franka_model import KINEMATICS, SAFETY
from dvgwm.robots.spec import DriveOptions
from dvgwm.runtime.errors import ConfigError, RobotCommunicationError, RobotStopError

HOME = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)


def test_its_kinematics_are_the_makers():
    """At the maker's ready pose the fingertips are .307 m in front and .487 m up (with the hand of .1034 m), pointing down."""
    pose = KINEMATICS.forward(np.array([0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4]))
    assert pose == pytest.approx([0.3069, 0.0, 0.4869, 0.0, 0.0, 0.0], abs=1e-3)
    joints, reached = KINEMATICS.inverse(pose, np.array(HOME) + 0.03)
    assert reached
    assert KINEMATICS.forward(joints) == pytest.approx(pose, abs=2e-3)


class NetworkException(Exception):  # noqa: N818 (franky's own name)
    pass


class ControlException(Exception):  # noqa: N818 (franky's own name)
    pass


class IncompatibleVersionException(Exception):  # noqa: N818 (franky's own name)
    pass


class Gripper:
    def __init__(self, host):
        self.max_width, self.width, self.moves = 0.08, 0.08, []

    def move(self, width, speed):
        self.moves.append(width)
        self.width = width
        return True


class Robot:
    def __init__(self, host, realtime_config):
        self.host, self.realtime, self.moves, self.fails = host, realtime_config, [], None
        self.mode, self.errors, self.begun_s = "Idle", {"joint_reflex": False}, time.monotonic()
        self.is_in_control = False

    @property
    def state(self):
        if isinstance(self.fails, NetworkException):
            raise self.fails
        seconds = time.monotonic() - self.begun_s
        time_now = SimpleNamespace(to_sec=lambda: seconds + 1.0)
        mode = SimpleNamespace(name=self.mode)
        return SimpleNamespace(
            q=np.array(HOME), time=time_now, robot_mode=mode, current_errors=SimpleNamespace(**self.errors)
        )

    def poll_motion(self):
        if self.fails is not None:
            raise self.fails

    def move(self, motion, asynchronous):
        assert asynchronous, "motion is not kept waiting"
        self.moves.append(motion)
        self.is_in_control = True

    def stop(self):
        self.is_in_control = False


FRANKY = SimpleNamespace(
    Robot=Robot,
    Gripper=Gripper,
    RealtimeConfig=SimpleNamespace(Enforce="enforce", Ignore="ignore"),
    JointState=lambda joints, speeds: (joints, speeds),
    JointMotion=lambda target, return_when_finished: target,
)


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "franky", FRANKY)
    driver = ROBOT.drive(DriveOptions("127.0.0.1", {"realtime": False}))
    driver.connect()
    yield driver
    driver.disconnect()
    assert not driver._robot.is_in_control


def action(joints, opening=1.0):
    return {f"{name}.pos": at for name, at in zip(ROBOT.arm.joint_names, (*joints, opening), strict=True)}


def test_targets_go_out_with_the_speed_at_which_they_are_passed(driver):
    assert driver._robot.realtime == "ignore"
    assert driver.state().positions == pytest.approx((*HOME, 1.0))
    driver.send_action(action(HOME))
    driver.send_action(action((HOME[0] + 0.01, *HOME[1:]), 0.25))
    joints, speeds = driver._robot.moves[-1]
    assert joints[0] == pytest.approx(0.01)
    assert speeds[0] == pytest.approx(0.5)
    assert speeds[1:] == [0.0] * 6
    time.sleep(0.2)
    assert driver._hand._gripper.moves == [pytest.approx(0.02)]
    assert driver.state().positions[7] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("mode", "errors", "said"),
    [
        ("Idle", {"joint_reflex": False}, None),
        ("Move", {"joint_reflex": False}, None),
        ("Reflex", {"joint_reflex": True, "joint_velocity_violation": False}, "joint reflex"),
        ("UserStopped", {}, "its stop button is pressed"),
        ("Other", {}, "it is in mode Other"),
    ],
)
def test_why_it_stopped_is_told(driver, mode, errors, said):
    driver._robot.mode, driver._robot.errors = mode, errors
    assert driver.state().stop == said


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (NetworkException("UDP receive: Timeout"), RobotCommunicationError, "FRANKA_LOST"),
        (ControlException("joint_reflex"), RobotStopError, "FRANKA_STOPPED"),
    ],
)
def test_libfrankas_errors_are_ours(driver, error, kind, code):
    driver._robot.fails = error
    with pytest.raises(kind, match=str(error)) as caught:
        driver.send_action(action(HOME))
    assert caught.value.log_code == code


def test_a_robot_of_another_firmware_is_told_so(monkeypatch):
    def refuse(host, realtime_config):
        raise IncompatibleVersionException("server version 9, library version 8")

    monkeypatch.setitem(sys.modules, "franky", SimpleNamespace(**{**vars(FRANKY), "Robot": refuse}))
    with pytest.raises(ConfigError, match="firmware") as caught:
        ROBOT.drive(DriveOptions("127.0.0.1")).connect()
    assert caught.value.log_code == "FRANKA_VERSION"


def test_without_franky_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "franky", None)
    with pytest.raises(ConfigError, match=r"pip install 'dvgwm\[franka\]'") as caught:
        ROBOT.drive(DriveOptions("127.0.0.1")).connect()
    assert caught.value.log_code == "FRANKA_MISSING"


def test_the_real_franky_says_that_nobody_is_there():
    franky = pytest.importorskip("franky", reason="franky is not installed")
    with pytest.raises(RobotCommunicationError, match="NetworkException") as caught:
        ROBOT.drive(DriveOptions("127.0.0.1")).connect()
    assert caught.value.log_code == "FRANKA_LOST"
    for name in ("JointMotion", "JointState", "RealtimeConfig", "Gripper"):
        assert hasattr(franky, name)
    assert {"state", "poll_motion", "move", "stop", "is_in_control"} <= set(dir(franky.Robot))


def test_its_limits_are_its_own():
    assert SAFETY.joints.dof == len(ROBOT.arm.joint_names)
    assert franka_fci.mapped(OSError("no route to host")).exit_code == 40
