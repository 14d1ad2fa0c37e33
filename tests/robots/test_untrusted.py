"""An arm whose messages do not say what they must, or that somebody else commands or tells of, is not armed, and is stopped."""

from xmlrpc.client import ServerProxy

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")

from dvgwm.robots import galaxea_a1_messages, galaxea_a1_ros, link, ros
from dvgwm.robots.a1_model import SAFETY
from dvgwm.robots.link import Kind
from dvgwm.robots.serve import CODES

pytestmark = [pytest.mark.sim, pytest.mark.slow, pytest.mark.alone]
TOPICS = galaxea_a1_ros.A1Settings()
JOINTS = list(galaxea_a1_messages.JOINTS)
UNSOUND = {
    "six error codes without a name": {"status": {"name": [], "codes": [512] * 6}},
    "a joint twice": {"states": {"name": [*JOINTS[:5], JOINTS[0]]}},
    "a gripper without a position": {"gripper": {"position": []}},
    "a name twice": {"status": {"name": [*JOINTS[:5], JOINTS[4]], "codes": [0] * 6}},
    "an empty status": {"status": {"name": [], "codes": []}},
    "a motor less": {"status": {"name": JOINTS[:5], "codes": [0] * 5}},
    "a name that is empty": {"status": {"name": [*JOINTS[:5], ""], "codes": [0] * 6}},
    "more names than codes": {"status": {"name": JOINTS, "codes": [0] * 5}},
    "no joints": {"states": {"name": [], "position": [], "velocity": []}},
    "a joint less": {"states": {"name": JOINTS[:5], "position": [0.0] * 5, "velocity": [0.0] * 5}},
    "a position less": {"states": {"position": [0.0] * 5}},
    "no speeds": {"states": {"velocity": []}},
    "a gripper of two positions": {"gripper": {"position": [1.0, 2.0]}},
}
RIVALS = {
    "somebody who may command the joints": (TOPICS.joint_targets, 0, 0.0),
    "a recording of joint states": (TOPICS.joint_states, 20, 86400.0),
    "a second teller of the status": (TOPICS.status, 5, 0.0),
    "somebody who commands the gripper": (TOPICS.gripper_targets, 50, 0.0),
    "a second teller of joint states": (TOPICS.joint_states, 20, 0.0),
    "a second teller of the gripper": (TOPICS.gripper_state, 20, 0.0),
}


@pytest.fixture
def arm(a1_node, motion_process):
    """A node and the motion process that reads its arm, locked."""
    made = []

    def start():
        node = next((each for each in a1_node.made if each.process.poll() is None), None) or a1_node()
        node.say()
        made.append(motion_process(SAFETY, "galaxea_a1", node.address))
        return node, made[-1]

    yield start
    for each in made:
        each.close()


def stopped(node, motion):
    """Wait until the arm is latched, and return what was told; it braked, and then nothing more was sent."""
    motion.until(lambda: motion.state.latched or motion.process.poll() is not None, 5)
    assert motion.process.poll() is None, motion.child.said()
    motion.until(lambda: motion.state.resting, 2)
    codes = [CODES[state.code] for _, state in motion.states if state.latched]
    assert set(codes) == {"ROBOT_UNTRUSTED"}, motion.said
    places = np.array([state.commanded[:6] for _, state in motion.states[-80:]])
    assert np.abs(np.diff(places, 2, axis=0)).max() <= 4.0 * 0.02**2 + 1e-9, "it braked, and did not stop dead"
    motion.pass_time(0.2)
    before = node.ask()["commands"]
    motion.pass_time(0.2)
    assert node.ask()["commands"] == before
    return motion.said[-1]


@pytest.mark.few(1)
@pytest.mark.parametrize("case", UNSOUND)
def test_a_message_that_does_not_say_what_it_must_stops_the_arm(arm, case):
    node, motion = arm()
    motion.arm()
    motion.play(4.0)
    motion.pass_time(0.3)
    node.say(**UNSOUND[case])
    said = stopped(node, motion)
    assert any(word in said for word in ("status", "joint states", "gripper's state")), said


@pytest.mark.few(1)
@pytest.mark.parametrize("case", ["an empty status", "a joint twice"])
def test_it_is_not_armed_either(arm, case):
    node, motion = arm()
    node.say(**UNSOUND[case])
    motion.until(lambda: len(motion.said) > 1, 2)
    motion.line.send(Kind.ARM, motion.now_s, link.pack_pose(motion.state.measured))
    assert motion.ended(5) == 40
    assert "E40 ROBOT_UNTRUSTED" in motion.child.said()


@pytest.mark.few(1)
@pytest.mark.parametrize("case", RIVALS)
def test_whoever_else_commands_or_tells_stops_the_arm(arm, ros_rival, case):
    node, motion = arm()
    topic, rate_hz, old_s = RIVALS[case]
    rival = ros_rival(node.address, topic, rate_hz, old_s)
    motion.arm()
    motion.play(6.0)
    rival.say()
    said = stopped(node, motion)
    assert rival.ready["node"] in said
    assert topic in said


def test_a_blocked_arm_is_seen_though_a_second_teller_says_that_all_is_well(arm, ros_rival):
    node, motion = arm()
    rival = ros_rival(node.address, TOPICS.joint_states, 20, 0.0)
    motion.arm()
    motion.play(4.0)
    node.say(stuck=True)
    rival.say()
    motion.until(lambda: motion.state.latched, 5)
    assert CODES[motion.state.code] in ("GATE_TRACKING", "ROBOT_UNTRUSTED")
    assert abs(motion.state.commanded[0] - motion.state.measured[0]) < 0.3


def test_an_arm_that_somebody_commands_is_not_armed(arm, ros_rival):
    node, motion = arm()
    rival = ros_rival(node.address, TOPICS.joint_targets, 10, 0.0)
    rival.say()
    motion.until(lambda: any(rival.ready["node"] in said for said in motion.said), 3)
    motion.line.send(Kind.ARM, motion.now_s, link.pack_pose(motion.state.measured))
    assert motion.ended(5) == 40
    assert f"{rival.ready['node']} commands the arm too, on {TOPICS.joint_targets}; end it" in motion.child.said()


def test_nodes_that_were_killed_stay_registered_and_are_nobody(arm):
    """Not even where another node was given the port of one: motion's own node, or the arm's driver."""
    node, motion = arm()
    motion.arm()
    ip, port = ros.master(node.address)
    own, driver = (
        next(iter(ros.publishing(ip, port, ros.publishers(ip, port)[topic], topic)))
        for topic in (TOPICS.joint_targets, TOPICS.joint_states)
    )
    killed = (
        ("/killed_1", TOPICS.joint_targets, own), ("/killed_2", TOPICS.joint_targets, driver),
        ("/killed_3", TOPICS.joint_states, driver), ("/killed_4", TOPICS.joint_targets, "http://127.0.0.1:9/"),
        ("/killed_5", TOPICS.status, "http://127.0.0.1:9/"),
    )  # fmt: skip
    with ServerProxy(f"http://{ip}:{port}/") as master:
        for name, topic, address in killed:
            assert master.registerPublisher(name, topic, "*", address)[0] == 1
        try:
            motion.play(3.0)
            motion.pass_time(1.0)
            assert not motion.state.latched, motion.said
        finally:
            for name, topic, address in killed:
                master.unregisterPublisher(name, topic, address)
    assert not ros.publishing(ip, port, ["/never there"], TOPICS.joint_targets)
    assert motion.process.poll() is None


def alive(master):
    nodes = ros.publishers(*master).get(TOPICS.joint_targets, ())
    return ros.publishing(*master, nodes, TOPICS.joint_targets)


def test_the_runtime_itself_commands_nothing_before_it_is_armed(arm):
    """It is not even registered: to a runtime on another machine a doctor or a dry run is no second commander."""
    node, motion = arm()
    master = ros.master(node.address)
    motion.pass_time(0.3)
    assert not alive(master)
    motion.arm()
    motion.pass_time(0.1)
    assert len(alive(master)) == 1
