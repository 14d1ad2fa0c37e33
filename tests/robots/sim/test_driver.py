import numpy as np
import pytest

from dvgwm.robots.a1_model import KINEMATICS
from dvgwm.robots.galaxea_a1 import ROBOT
from dvgwm.robots.sim import library
from dvgwm.robots.sim.cameras import CAMERAS
from dvgwm.robots.sim.driver import HOME_POSE, MujocoRobot
from dvgwm.robots.sim.tasks import TASKS
from dvgwm.robots.spec import SimulationOptions
from dvgwm.runtime.errors import ConfigError

pytestmark = pytest.mark.sim
KEYS = tuple(f"{name}.pos" for name in ROBOT.arm.joint_names)


def robot_at(task="fruit_in_bowl", seed=0):
    return MujocoRobot(SimulationOptions(task, seed, 32, 48), "ray casting")


def test_mujoco_agrees_with_our_kinematics():
    robot = robot_at()
    for target in ([0.3, 1.0, -0.8, 1.2, -0.9, 0.4, 0.5], [-0.5, 1.5, -1.4, 1.8, -0.6, -0.7, 0.2]):
        robot.send_action(dict(zip(KEYS, target, strict=True)))
        robot.advance(3.0)
        pose = KINEMATICS.forward(np.array(robot.positions()))
        assert pose[:3] == pytest.approx(robot.bodies()["hand"], abs=1e-9)


def test_servos_reach_what_they_are_told():
    robot = robot_at()
    target = [0.3, 1.2, -0.9, 1.4, -1.1, 0.2, 0.4]
    assert list(robot.send_action(dict(zip(KEYS, target, strict=True))).values()) == target
    robot.advance(2.0)
    assert robot.positions() == pytest.approx(target, abs=2e-3)


def test_it_starts_at_home_at_rest_with_the_clock_at_zero():
    robot = robot_at()
    before = robot.positions()
    assert robot.time_s == 0.0
    assert KINEMATICS.forward(np.array(before)) == pytest.approx(HOME_POSE, abs=1e-3)
    robot.advance(1.0)
    assert robot.time_s == 1.0
    assert robot.positions() == pytest.approx(before, abs=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_moves_and_nothing_is_solved_by_waiting(task):
    for seed in range(5):
        robot = robot_at(task, seed)
        robot.advance(1.0)
        assert robot.moved() == ()
        assert not robot.solved()


@pytest.mark.parametrize("task", TASKS)
def test_the_other_instruction_asks_for_another_thing_of_the_same_task_where_there_is_one(task):
    robot = robot_at(task, 2)
    sentences = [TASKS[task].instruction(target) for target in TASKS[task].targets]
    assert robot.other_instruction != robot.instruction
    assert (robot.other_instruction in sentences) == (len(sentences) > 1)


def test_an_instruction_is_heeded_where_what_it_names_was_moved_furthest():
    robot = robot_at("push_cube", 2)
    others = [name for name in TASKS["push_cube"].targets if name != robot.layout.target]
    asked, other = robot.instruction, TASKS["push_cube"].instruction(others[0])

    def shift(name, metres):
        joint = robot._model.body(name).jntadr[0]
        robot._data.qpos[robot._model.jnt_qposadr[joint]] += metres
        robot.advance(0.02)

    assert robot.heeds(asked) is False, "nothing has moved"
    shift(others[0], 0.04)
    assert (robot.heeds(asked), robot.heeds(other)) == (False, True)
    shift(robot.layout.target, 0.08)
    assert (robot.heeds(asked), robot.heeds(other)) == (True, False)
    assert robot.heeds("stack the red cube on the yellow block") is None
    sweeping = robot_at("sweep", 2)
    assert sweeping.heeds(sweeping.instruction) is None, "there is but one thing to sweep"


def test_a_rehearsal_is_the_experts_episode_seen():
    shown = ROBOT.simulation.rehearse("stack_cube", 1, 32, 48)
    assert len(shown) >= 49
    assert shown[0].images["scene"].shape == (32, 48, 3)
    assert np.diff([one.time_s for one in shown]) == pytest.approx(0.1)


def test_targets_are_kept_inside_the_limits():
    sent = robot_at().send_action(dict.fromkeys(KEYS, 99.0))
    assert tuple(sent.values()) == ROBOT.arm.limits.joints.upper


def test_wrong_names_are_refused():
    with pytest.raises(ConfigError, match=r"wanted joint_1\.pos"):
        robot_at().send_action({"joint_1.pos": 0.0})


def test_ticks_do_not_drift():
    robot = robot_at()
    for _ in range(1000):
        robot.advance(0.02)
    assert robot.time_s == pytest.approx(20.0, abs=1e-12)


def test_observation_carries_joints_and_both_cameras():
    seen = robot_at().get_observation()
    assert set(seen) == {*KEYS, *CAMERAS}
    assert all(seen[camera].shape == (32, 48, 3) and seen[camera].dtype == np.uint8 for camera in CAMERAS)


def test_without_mujoco_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"dvgwm\[sim\]") as raised:
        library._imported()
    assert raised.value.log_code == "SIM_MISSING"
