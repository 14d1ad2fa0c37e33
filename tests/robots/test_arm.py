"""The arm around the motion core: chunks on a virtual clock, every frame shown, every failure named."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest

from dvgwm.robots.arm import VirtualArm, open_arm
from dvgwm.robots.limits import JointLimits, SafetyLimits
from dvgwm.robots.spec import ArmModel, RobotSpec, Simulation, SimulationOptions
from dvgwm.runtime.errors import ConfigError, GateLatchError, ShapeError
from dvgwm.runtime.types import ActionChunk

JOINTS = JointLimits((-1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (4.0, 10.0))
LIMITS = SafetyLimits(JOINTS, leap=(2.0, 2.0), jump=(0.1, 0.1), tracking=(0.1, 0.1))
T = 0.02


class Planar:
    """Two 'joints' that are one position and a gripper: pose x is the joint, the servo is perfect."""

    renderer, instruction = "none", "move"

    def __init__(self):
        self.time_s, self.q, self.sent, self.connected = 3.0, [0.0, 0.5], [], False

    def connect(self, calibrate=True):
        self.connected = True

    def disconnect(self):
        self.connected = False

    def positions(self):
        return tuple(self.q)

    def images(self):
        return {"scene": np.zeros((2, 2, 3), np.uint8)}

    def get_observation(self):
        return {}

    def send_action(self, action):
        self.sent.append(action)
        self.q = list(action.values())
        return action

    def advance(self, seconds):
        self.time_s += seconds

    def solved(self):
        return False


class Identity:
    def forward(self, joints):
        return np.asarray([joints[0], 0, 0, 0, 0, 0])

    def inverse(self, pose, near):
        assert np.isfinite(pose).all()
        assert np.isfinite(near).all()
        return np.asarray([min(pose[0], 0.8)]), bool(pose[0] <= 0.8)


PLANAR = ArmModel("planar", ("x", "gripper"), LIMITS, T, Identity())


def actions(values, start_s=3.0, space="joint"):
    rows = [[v, 0.5] if space == "joint" else [v, 0, 0, 0, 0, 0, 0.5] for v in values]
    return ActionChunk(np.asarray(rows), start_s + 0.1 * np.arange(1, len(rows) + 1), space)


def test_the_arm_plays_a_chunk_on_its_own_clock_and_shows_every_frame():
    frames, robot = [], Planar()
    arm = VirtualArm(PLANAR, robot, lambda observation, action: frames.append((observation, action)))
    arm.play(actions([0.005 * k * k for k in range(1, 8)]))
    assert len(robot.sent) == 35
    assert arm.time_s == pytest.approx(3.7)
    assert robot.time_s == pytest.approx(arm.time_s)
    for k, (observation, action) in enumerate(frames, 1):
        assert observation.time_s == pytest.approx(3.0 + 0.1 * k)
        assert observation.joints[0] == pytest.approx(action[0], abs=1e-9)


def test_the_last_half_minute_of_motion_is_remembered_to_the_tick_that_latched():
    arm = VirtualArm(PLANAR, Planar())
    arm.hold(40.0)
    with pytest.raises(GateLatchError):
        arm.play(actions([0.01, math.nan, 0.02], start_s=arm.time_s))
    motion = arm.recorded()
    assert motion.joint_names == ("x", "gripper")
    assert len(motion.ticks) == 1500
    assert np.diff([tick.time_s for tick in motion.ticks]) == pytest.approx(T)
    assert motion.ticks[-1].log_code == "GATE_NONFINITE"
    assert {len(row) for tick in motion.ticks for row in (tick.commanded, tick.measured)} == {2}
    told = [tick.log_code for tick in motion.ticks]
    assert told[: told.index("GATE_NONFINITE")] == [None] * told.index("GATE_NONFINITE")


def test_poses_go_through_kinematics_and_unreachable_ones_are_told_once():
    arm = VirtualArm(PLANAR, Planar())
    arm.play(actions([0.01, 0.03, 0.05], space="ee"))
    assert arm.observe().joints[0] == pytest.approx(0.05)
    assert not arm.events()
    arm.play(actions([0.9, 0.9, 0.9], start_s=3.3, space="ee"))
    assert [event.log_code for event in arm.events()][:1] == ["ARM_UNREACHABLE"]
    assert not arm.events()


def test_an_arm_is_opened_in_the_scene_that_was_asked_for_and_closed():
    asked = []
    spec = RobotSpec(PLANAR, Simulation((), lambda options: asked.append(options) or Planar(), lambda *_: ()))
    arm = open_arm(spec, task="push", seed=3, height_px=64, width_px=96)
    assert asked == [SimulationOptions("push", 3, 64, 96)]
    assert arm.robot.connected
    arm.close()
    assert not arm.robot.connected


@pytest.mark.parametrize("width", [6, 8])
def test_poses_of_another_width_are_refused_before_anything_moves(width):
    robot = Planar()
    with pytest.raises(ShapeError) as caught:
        VirtualArm(PLANAR, robot).play(ActionChunk(np.zeros((1, width)), np.asarray([3.1]), "ee"))
    assert (caught.value.exit_code, caught.value.log_code) == (32, "ACTION_WIDTH")
    assert robot.sent == []


@pytest.mark.parametrize("times", [[math.nan], [math.inf], [3.1, 3.1]])
def test_times_that_make_no_sense_are_refused_before_anything_moves(times):
    robot = Planar()
    with pytest.raises(ShapeError):
        VirtualArm(PLANAR, robot).play(ActionChunk(np.full((len(times), 2), 0.1), np.asarray(times), "joint"))
    assert robot.sent == []


def test_joint_actions_of_another_width_latch():
    with pytest.raises(GateLatchError) as caught:
        VirtualArm(PLANAR, Planar()).play(ActionChunk(np.zeros((1, 3)), np.asarray([3.1]), "joint"))
    assert caught.value.log_code == "GATE_SHAPE"


def test_actions_that_are_past_are_neither_played_nor_shown():
    shown = []
    arm = VirtualArm(PLANAR, Planar(), lambda _, action: shown.append(action[0]))
    arm.hold(0.2)
    arm.play(actions([0.002, 0.004, 0.008, 0.014]))
    assert shown == [0.008, 0.014]
    assert arm.time_s == pytest.approx(3.4)
    assert not arm.events()


def test_a_chunk_that_is_wholly_past_is_told_and_shows_nothing():
    shown = []
    arm = VirtualArm(PLANAR, Planar(), lambda _, action: shown.append(action))
    arm.play(actions([0.1, 0.2], start_s=1.0))
    assert shown == []
    assert [event.log_code for event in arm.events()] == ["MOTION_LATE"]
    assert arm.observe().joints == pytest.approx([0.0, 0.5])


def test_a_latched_arm_refuses_the_next_chunk_and_holds():
    robot = Planar()
    arm = VirtualArm(PLANAR, robot)
    for values in ([math.nan], [0.01, 0.02]):
        with pytest.raises(GateLatchError):
            arm.play(actions(values, start_s=arm.time_s))
    assert robot.q == [0.0, 0.5]


def test_another_action_space_is_refused():
    with pytest.raises(ConfigError, match="joint or ee"):
        VirtualArm(PLANAR, Planar()).play(ActionChunk(np.zeros((1, 2)), np.asarray([3.1]), "torque"))


@pytest.mark.parametrize("space", ["joint", "ee"])
def test_nan_brakes_latches_and_raises_with_the_arm_at_rest(space):
    robot = Planar()
    arm = VirtualArm(PLANAR, robot)
    arm.play(actions([0.02, 0.05, 0.08]))
    with pytest.raises(GateLatchError) as caught:
        arm.play(actions([0.11, math.nan, 0.14], start_s=3.3, space=space))
    assert (caught.value.exit_code, caught.value.log_code) == (42, "GATE_NONFINITE")
    path = np.asarray([action["x.pos"] for action in robot.sent])
    assert path[-1] > 0.08, "it slows down along its way"
    assert np.abs(np.diff(path, 2)).max() / T**2 <= 4.0 + 1e-6
    assert robot.sent[-1] == robot.sent[-2], "it rests when the error is raised"


@pytest.mark.thorough
def test_ticks_do_not_drift_over_an_hour():
    arm = VirtualArm(PLANAR, Planar())
    arm.hold(3600.0)
    assert arm.time_s == 3.0 + 180_000 * T


def test_same_chunks_same_commands():
    sent = []
    for _ in range(2):
        robot = Planar()
        arm = VirtualArm(PLANAR, robot)
        arm.play(actions([0.5, -0.5, 0.1, 0.2]))
        arm.stop()
        sent.append(robot.sent)
    assert sent[0] == sent[1]


def test_nothing_but_the_arm_commands_a_driver():
    robots = Path(__file__).parents[2] / "robots"
    callers = {
        path.name
        for path in robots.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "send_action"
    }
    # Two of them command nothing that motion does not: a node that is the robot, and the robot that one of our drivers drives.
    assert callers == {"arm.py", "plant.py", "a1_node.py", "lerobot.py"}
    assert "gate.check" in (robots / "motion.py").read_text()
    for name in ("arm.py", "serve.py"):
        assert "motion.step" in (robots / name).read_text()
        assert "verdict.position" in (robots / name).read_text()
    assert (robots / "serve.py").read_text().count("driver.send(verdict.position)") == 1
