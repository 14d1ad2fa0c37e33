"""lerobot's interface both ways: a robot of its kind behind motion and gate, ours by the members that lerobot asks for."""

import math
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from dvgwm.robots import link, motion, plant, serve
from dvgwm.robots.arm import VirtualArm
from dvgwm.robots.galaxea_a1 import ROBOT
from dvgwm.robots.lerobot import MEMBERS, GatedRobot, LerobotDriver, Unit
from dvgwm.robots.spec import ArmModel
from dvgwm.runtime.errors import ConfigError, GateLatchError, RobotCommunicationError
from dvgwm.runtime.types import Check

A1 = ROBOT.arm
HOME = (0.0, 1.58, -1.14, 1.57, -1.13, 0.0, 0.5)
DEGREES = Unit(180.0 / math.pi)


class Serial:
    """A robot as lerobot's are: its bus takes milliseconds, its joints are counted in degrees, the gripper from 0 to 100."""

    name = "serial"

    def __init__(self, places=HOME):
        self.is_connected, self.sent, self.dead, self.busy = False, [], False, threading.Lock()
        self.is_calibrated, self.torque = True, True
        self.places = self.counted(places)

    def counted(self, places):
        keys = self.action_features
        return dict(zip(keys, [*(math.degrees(place) for place in places[:6]), 100.0 * places[6]], strict=True))

    @property
    def action_features(self):
        return {f"{name}.pos": float for name in A1.joint_names}

    @property
    def observation_features(self):
        return {**self.action_features, "front": (480, 640, 3)}

    def connect(self, calibrate=True):
        """As an SO-101 does: what is not calibrated is, with its torque off."""
        self.is_connected = True
        if not self.is_calibrated and calibrate:
            self.calibrate()

    def calibrate(self):
        self.torque, self.is_calibrated = False, True

    def get_observation(self):
        assert self.busy.acquire(blocking=False), "two threads on one bus"
        time.sleep(0.004)
        self.busy.release()
        if self.dead:
            raise ConnectionError("no status packet")
        return {**self.places, "front": np.zeros((480, 640, 3), np.uint8)}

    def send_action(self, action):
        assert self.busy.acquire(blocking=False), "two threads on one bus"
        time.sleep(0.002)
        self.sent.append(action)
        self.places = dict(action)
        self.busy.release()
        return action

    def disconnect(self):
        self.is_connected = False


UNITS = {**dict.fromkeys(A1.joint_names[:6], DEGREES), "gripper": Unit(100.0)}


@pytest.fixture
def driver():
    driver = LerobotDriver(Serial(), A1, "usb0", UNITS)
    driver.connect()
    yield driver
    driver.disconnect()
    assert not driver.robot.is_connected


def test_its_joints_are_told_in_our_units(driver):
    assert driver.state().positions == pytest.approx(HOME)
    assert time.monotonic() - driver.state().at_s < 0.1
    driver.send_action({f"{name}.pos": at + 0.01 for name, at in zip(A1.joint_names, HOME, strict=True)})
    time.sleep(0.05)
    assert driver.state().positions == pytest.approx([at + 0.01 for at in HOME])
    assert driver.robot.sent[-1]["joint_2.pos"] == pytest.approx(math.degrees(1.59))


@pytest.mark.parametrize("how", ["driver", "driver, told to", "plant", "motion's driver"])
def test_it_is_never_calibrated_from_here(how):
    """Whoever opens it to look lets an arm fall that lets go of its torque."""
    robot = Serial()
    robot.is_calibrated = False
    driver = LerobotDriver(robot, A1, "usb0", UNITS)
    opened = {
        "driver": driver.connect,
        "driver, told to": lambda: driver.connect(calibrate=True),
        "plant": plant.RealPlant(driver).connect,
        "motion's driver": plant.Driver(plant.RealPlant(driver), A1.joint_names, 0.0).connect,
    }
    with pytest.raises(
        ConfigError, match=r"lerobot-calibrate --robot.type=serial --robot.port=PORT --robot.id=usb0"
    ) as caught:
        opened[how]()
    assert (caught.value.exit_code, caught.value.log_code) == (2, "ROBOT_UNCALIBRATED")
    assert robot.torque, "it was not calibrated"
    assert not robot.is_connected
    assert not robot.sent


def test_no_driver_is_asked_to_calibrate():
    """Of somebody else's robot, too, whose `connect` would by default."""
    asked = []

    class Other(Serial):
        id, about, engage, state = "x", lambda self: "", lambda self: None, lambda self: None

        def connect(self, calibrate=True):
            asked.append(calibrate)

    plant.Driver(plant.RealPlant(Other()), A1.joint_names, 0.0).connect()
    assert asked == [False]


def test_a_robot_of_an_interface_without_calibration_is_opened():
    robot = Serial()
    del robot.is_calibrated
    robot.connect = lambda calibrate: None
    driver = LerobotDriver(robot, A1, "usb0", UNITS)
    driver.connect()
    driver.disconnect()


def test_one_bus_is_one_robot_by_whatever_name(tmp_path):
    (tmp_path / "by-id").symlink_to("/dev/null")
    robots = [Serial(), Serial(), Serial()]
    robots[0].config, robots[1].config = (
        SimpleNamespace(port="/dev/null"),
        SimpleNamespace(port=str(tmp_path / "by-id")),
    )
    names = [tuple(LerobotDriver(robot, A1, f"arm {k}", UNITS).identities()) for k, robot in enumerate(robots)]
    assert names == [("device 1:3",), ("device 1:3",), ("lerobot arm 2",)]


def test_motion_and_gate_are_in_between(driver):
    """A target that leaps is gone to at the joint's own speed, in steps."""
    here, there = link.link(5)
    there = link.Line(there, 5)
    origin_s, ending = time.monotonic(), serve.Ending()
    served = plant.Driver(plant.RealPlant(driver), A1.joint_names, origin_s)
    core = serve.begin(A1, served)
    now_s = time.monotonic() - origin_s
    far = (HOME[0] + 0.3, *HOME[1:])
    chunk = link.Chunk(1, math.nan, (now_s + 0.1, now_s + 2.5), (far, far))
    here.send(link.Kind.CHUNK, now_s, link.pack_chunk(chunk))
    alive = threading.Event()

    def live():
        while not alive.wait(0.02):
            here.send(link.Kind.ALIVE, time.monotonic() - origin_s)

    threading.Thread(target=live, daemon=True).start()
    threading.Timer(2.8, lambda: setattr(ending, "code", 0)).start()
    assert serve.serve(core, served, there, ending) == 0
    alive.set()
    here.close()
    there.close()
    sent = np.radians([action["joint_1.pos"] for action in driver.robot.sent])
    assert sent[-1] == pytest.approx(HOME[0] + 0.3, abs=0.01)
    assert np.abs(np.diff(sent)).max() < 3 * A1.limits.joints.velocity[0] * A1.period_s


def test_a_bus_that_fails_is_a_robot_that_does_not_answer(driver):
    driver.robot.dead = True
    time.sleep(0.05)
    with pytest.raises(ConnectionError, match="status packet"):
        driver.state()
    with pytest.raises(RobotCommunicationError, match="ConnectionError: no status packet") as caught:
        serve.begin(A1, plant.Driver(plant.RealPlant(driver), A1.joint_names, time.monotonic()))
    assert caught.value.log_code == "ROBOT_DRIVER"


def test_another_robot_is_refused():
    with pytest.raises(ConfigError, match="one without name, observation_features"):
        LerobotDriver(object(), A1, "usb0")
    other = ArmModel("other", ("left", *A1.joint_names[1:]), A1.limits, A1.period_s, A1.kinematics)
    with pytest.raises(ConfigError, match=r"wanted action_features gripper.pos, joint_2.pos"):
        LerobotDriver(Serial(), other, "usb0")


class Held(VirtualArm):
    """The simulated arm as one that has to be armed."""

    about, armed = "simulated", False

    def checks(self):
        return [Check("camera", True, "fresh")]

    def arm(self):
        self.armed = True


@pytest.fixture
def gated():
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    from dvgwm.robots.spec import SimulationOptions, simulated

    arms = []

    def open_arm():
        arms.append(Held(A1, simulated(ROBOT, SimulationOptions("fruit_in_bowl", 0, 32, 48))))
        return arms[-1]

    return arms, lambda confirm: GatedRobot(A1, open_arm, confirm, "scene", (32, 48, 3))


@pytest.mark.sim
def test_ours_passes_where_lerobots_is_expected(gated):
    arms, make = gated
    robot = make(lambda checks: True)
    for name in (*MEMBERS, "config_class", "is_calibrated", "calibrate", "configure", "__enter__", "__exit__"):
        assert hasattr(robot, name), name
    assert not robot.is_connected
    with pytest.raises(RobotCommunicationError, match="not open"):
        robot.get_observation()
    with robot:
        assert robot.is_connected
        assert arms[0].armed
        robot.calibrate()
        robot.configure()
        seen = robot.get_observation()
        assert set(seen) == set(robot.observation_features)
        assert seen["scene"].shape == robot.observation_features["scene"]
        wanted = {key: seen[key] for key in robot.action_features} | {"joint_1.pos": seen["joint_1.pos"] + 0.3}
        sent = robot.send_action(wanted)
        assert set(sent) == set(robot.action_features)
        assert seen["joint_1.pos"] < sent["joint_1.pos"] < wanted["joint_1.pos"], "what was really sent"
        with pytest.raises(GateLatchError):
            robot.send_action(wanted | {"joint_1.pos": math.nan})
    assert not robot.is_connected


@pytest.mark.sim
def test_an_arm_that_nobody_armed_does_not_move(gated):
    arms, make = gated
    with pytest.raises(GateLatchError) as caught:
        make(lambda checks: False).connect()
    assert caught.value.log_code == "ARM_UNREADY"
    assert not arms[0].armed


def test_where_it_stands_is_where_motion_begins():
    assert motion.start(A1.limits, A1.period_s, HOME).resting
