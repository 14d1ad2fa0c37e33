"""The A1's driver against a real ROS master, and the simulated arm behind the vendor's topics."""

import pytest

from dvgwm.robots import galaxea_a1_messages, ros
from dvgwm.robots.galaxea_a1 import ROBOT
from dvgwm.robots.spec import DriveOptions
from dvgwm.runtime.errors import ConfigError, RobotCommunicationError


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("localhost", ("127.0.0.1", 11311)),
        ("127.0.0.1:11411", ("127.0.0.1", 11411)),
        ("http://localhost:11311/", ("127.0.0.1", 11311)),
        ("ros://127.0.0.1:1", ("127.0.0.1", 1)),
    ],
)
def test_a_master_has_many_spellings_and_one_name(address, wanted):
    assert ros.master(address) == wanted
    assert ROBOT.drive(DriveOptions(address)).id == "{}:{}".format(*wanted)


@pytest.mark.parametrize(
    "address", ["", ":11311", "ftp://host", "host:port", "host:99999", "a b", "ros://h/path", "u@h"]
)
def test_what_is_no_address_is_told(address):
    with pytest.raises((ConfigError, RobotCommunicationError)) as caught:
        ros.master(address)
    assert caught.value.log_code in ("ARM_ADDRESS", "ARM_HOST")


@pytest.mark.parametrize(
    "said", [{"stroke_mm": 60.0}, {"stroke_max_mm": "60"}, {"stroke_max_mm": -1.0}, {"stroke_max_mm": float("nan")}]
)
def test_settings_are_strict(said):
    with pytest.raises(ConfigError) as caught:
        ROBOT.drive(DriveOptions("localhost", said))
    assert caught.value.log_code == "ARM_SETTINGS"


@pytest.mark.parametrize(
    ("code", "moving", "said"),
    [
        (0, True, None),
        (64, False, None),
        (64, True, "arm_joint2: timeout between its controllers"),
        (64 | 1 << 9, False, "arm_joint2: timeout between its controllers, torque limit"),
        (1 << 15, False, "arm_joint2: communication lost"),
        (1 << 3, False, "arm_joint2: fault 3"),
    ],
)
def test_an_error_code_is_told_in_words(code, moving, said):
    assert galaxea_a1_messages.stop({"arm_joint1": 0, "arm_joint2": code}, moving) == said


def test_messages_are_the_vendors(ros_installed):
    """Their checksums are computed from our texts; another text is refused."""
    galaxea_a1_messages.status_messages("signal_arm/status_stamped")
    galaxea_a1_messages.gripper_message()
    with pytest.raises(ConfigError) as caught:
        ros.messages("signal_arm/gripper_position_control", "float64 gripper_stroke", galaxea_a1_messages.GRIPPER_MD5)
    assert caught.value.log_code == "ROS_MESSAGE"


def test_no_master_is_told_at_once(ros_installed):
    driver = ROBOT.drive(DriveOptions("127.0.0.1:9"))
    with pytest.raises(RobotCommunicationError, match="no ROS master answers at") as caught:
        driver.connect()
    assert caught.value.log_code == "ROS_MASTER"
