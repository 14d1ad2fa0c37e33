"""The UR7e's driver: the real ur-rtde, receive and control, against a controller's protocol on loopback."""

import time

import numpy as np
import pytest

from dvgwm.robots.franka import ROBOT as FRANKA
from dvgwm.robots.spec import DriveOptions
from dvgwm.robots.ur7e import ROBOT
from dvgwm.robots.ur7e_model import KINEMATICS, SAFETY
from dvgwm.runtime.errors import ConfigError, RobotCommunicationError

HOME = (0.0, -1.6, 1.6, -1.57, -1.57, 0.0)


def test_its_kinematics_are_the_makers():
    """All joints at 0, the arm lies along -x: a2 + a3, and d4 + d6 to the side, by the published parameters."""
    straight = KINEMATICS.forward(np.zeros(6))[:3]
    tool_m = 0.0996 + 0.163
    assert straight == pytest.approx([-0.425 - 0.3922, -0.1333 - tool_m, 0.1625 - 0.0997], abs=1e-9)
    down = KINEMATICS.forward(np.array(HOME))
    joints, reached = KINEMATICS.inverse(down, np.array(HOME) + 0.05)
    assert reached
    assert KINEMATICS.forward(joints) == pytest.approx(down, abs=2e-3)


@pytest.mark.parametrize("said", [{"gripper": "hand"}, {"gain": 50.0}, {"lookahead_s": 0.5}, {"gian": 300.0}])
def test_settings_are_strict(said):
    with pytest.raises(ConfigError) as caught:
        ROBOT.drive(DriveOptions("127.0.0.1", said))
    assert caught.value.log_code == "ARM_SETTINGS"


@pytest.mark.parametrize("robot", [ROBOT, FRANKA])
@pytest.mark.parametrize("address", ["", "127.0.0.1:30004", "http://robot", "a b"])
def test_what_is_no_address_is_told(robot, address):
    with pytest.raises(ConfigError) as caught:
        robot.drive(DriveOptions(address))
    assert caught.value.log_code == "ARM_ADDRESS"


def test_nobody_there_is_told_at_once():
    driver = ROBOT.drive(DriveOptions("127.0.0.9"))
    begun_s = time.monotonic()
    with pytest.raises((RobotCommunicationError, ConfigError)) as caught:
        driver.connect()
    assert caught.value.log_code in ("ARM_CONNECT", "UR_MISSING")
    assert time.monotonic() - begun_s < 5


@pytest.fixture
def controlled(ur_controller, motion_process, tmp_path):
    """A controller, and what starts motion on it; all end with the test."""
    there, made = ur_controller(), []

    def start():
        made.append(motion_process(SAFETY, "ur7e", there.address))
        return made[-1]

    yield there, start
    for each in made:
        each.close()


@pytest.fixture
def held(controlled):
    there, start = controlled
    return there, start()


def test_it_is_only_listened_to_before_it_is_armed(held):
    there, motion = held
    motion.pass_time(0.5)
    told = there.ask()
    assert (told["commands"], told["program"], told["active"]) == (0, False, False)
    assert motion.state.measured[:6] == pytest.approx(HOME)
    assert not motion.state.armed


def test_it_goes_where_it_is_sent_and_its_gripper_too(controlled):
    there, start = controlled
    for turn in range(3):
        motion = start()
        motion.arm()
        told = there.ask()
        if told["program"] or turn == 2:
            break
        motion.close()
        assert told["watchdog_stops"] == turn + 1, "two cores, tests on both: only the watchdog may end it here"
    assert told["program"]
    assert told["active"]
    before = motion.state.commanded
    motion.play(2.0)
    motion.pass_time(2.2)
    told = there.ask()
    assert told["commands"] > 80
    assert told["joints"][0] == pytest.approx(motion.state.commanded[0], abs=0.01)
    assert abs(motion.state.commanded[0] - before[0]) > 0.3
    assert not motion.state.latched


def test_it_stops_by_its_own_watchdog_when_motion_is_killed(held):
    there, motion = held
    motion.arm()
    motion.play()
    motion.process.kill()
    time.sleep(0.5)
    told = there.ask()
    assert told["watchdog_stops"] == 1
    assert not told["program"]
    assert there.ask()["joints"] == told["joints"]


def test_a_stopped_robot_is_not_armed(held):
    there, motion = held
    there.say(safety_bits=4)
    motion.pass_time(0.3)
    assert any("protective stop" in said for said in motion.said)
    from dvgwm.robots import link

    motion.line.send(link.Kind.ARM, motion.now_s, link.pack_pose(motion.state.measured))
    assert motion.ended(3) == 41
    assert "E41 ARM_STOPPED" in motion.child.said()
    assert there.ask()["commands"] == 0
