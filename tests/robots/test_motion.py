"""The pure motion core and the arm around it, on a virtual clock."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest

from dvgwm.robots import motion, player
from dvgwm.robots.arm import VirtualArm
from dvgwm.robots.limits import JointLimits
from dvgwm.robots.motion import JointChunk, Mailbox
from dvgwm.robots.spec import RobotSpec
from dvgwm.runtime.errors import ConfigError, GateLatchError
from dvgwm.runtime.types import ActionChunk

LIMITS = JointLimits((-1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (4.0, 10.0))
T = 0.02


def chunk(sequence=0, start_s=0.0, values=None):
    values = [0.3 * (1 - math.cos(0.5 * 0.1 * k)) for k in range(1, 21)] if values is None else values
    times = tuple(start_s + 0.1 * (k + 1) for k in range(len(values)))
    return JointChunk(sequence, times, tuple((v, 0.5) for v in values))


def run(core, box, ticks, start_tick=0):
    commands, events = [], []
    for tick in range(start_tick, start_tick + ticks):
        core, command, event = motion.step(core, tick * T, box)
        commands.append(command)
        events += [event] if event else []
    return core, np.asarray(commands), events


def fresh():
    return motion.start(LIMITS, T, (0.0, 0.5))


def test_targets_are_reached_at_their_times_without_a_clamp():
    _, commands, events = run(fresh(), Mailbox(chunk()), 100)
    for k in range(1, 21):
        assert commands[5 * k - 1][0] == pytest.approx(0.3 * (1 - math.cos(0.05 * k)), abs=1e-9)
    assert events == []
    speed = np.diff(commands[:, 0]) / T
    assert np.abs(np.diff(speed)).max() / T < 4.0


def test_after_the_last_target_it_brakes_and_holds():
    box = Mailbox(chunk())
    core, _, _ = run(fresh(), box, 100)
    core, commands, events = run(core, box, 60, start_tick=100)
    assert core.resting
    assert commands[-1][0] == commands[-2][0]
    assert commands[-1][0] > chunk().targets[-1][0], "it slows down along its way instead of stopping dead"
    assert events == []


def test_a_stop_brakes_within_the_acceleration_limit():
    core, commands, _ = run(fresh(), Mailbox(chunk()), 60)
    speed = core.gate.velocity[0]
    core, after, _ = run(core, Mailbox(stop=True), 30, start_tick=60)
    assert core.resting
    steps = np.diff(np.concatenate([commands[-2:, 0], after[:, 0]])) / T
    assert np.abs(np.diff(steps)).max() <= 4.0 * T + 1e-9
    assert np.count_nonzero(steps > 1e-12) <= math.ceil(speed / (4.0 * T)) + 2


def test_a_following_chunk_is_joined_without_a_kink():
    core, first, _ = run(fresh(), Mailbox(chunk()), 100)
    more = [chunk().targets[-1][0] + 0.0126 * (k + 1) for k in range(10)]
    _, second, events = run(core, Mailbox(chunk(1, 2.0, more)), 50, start_tick=100)
    speed = np.diff(np.concatenate([first[:, 0], second[:, 0]])) / T
    assert np.abs(np.diff(speed)).max() <= 4.0 * T + 1e-9
    assert events == []


def test_a_repeated_chunk_is_not_played_again_and_an_older_one_is_refused():
    box = Mailbox(chunk())
    core, _, _ = run(fresh(), box, 200)
    held = core.gate.position
    core, _, _ = run(core, box, 50, start_tick=200)
    assert core.gate.position == held
    core, _, _ = run(core, Mailbox(chunk(-1)), 10, start_tick=250)
    assert core.gate.position == held


def test_an_older_sequence_is_told_once():
    core, _, _ = run(fresh(), Mailbox(chunk(5)), 200)
    _, _, events = run(core, Mailbox(chunk(4, 4.0)), 50, start_tick=200)
    assert [event.log_code for event in events] == ["MOTION_SEQUENCE"]


def test_a_chunk_that_is_wholly_past_holds():
    _, commands, events = run(fresh(), Mailbox(chunk(0, -9.0)), 20, start_tick=100)
    assert [event.log_code for event in events] == ["MOTION_LATE"]
    assert (commands == commands[0]).all()


def test_a_chunk_whose_first_targets_are_past_is_joined_at_the_rest():
    _, commands, _ = run(fresh(), Mailbox(chunk(0, 0.0, [0.01] * 5 + [0.02 * k for k in range(1, 11)])), 100, 25)
    assert commands[5 * 10 - 1][0] == pytest.approx(0.2, abs=1e-2)
    assert (np.abs(np.diff(commands[:, 0])) <= 1.0 * T + 1e-9).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_target_that_is_not_finite_latches(bad):
    core, commands, events = run(fresh(), Mailbox(chunk(0, 0.0, [0.01, bad, 0.02])), 50)
    assert core.gate.latched == "GATE_NONFINITE"
    assert np.isfinite(commands).all()
    assert [event.log_code for event in events] == ["GATE_NONFINITE"]
    core, _, _ = run(core, Mailbox(chunk(1, 1.0)), 50, start_tick=50)
    assert core.gate.latched == "GATE_NONFINITE"


def test_a_jump_is_slowed_down_and_told_once():
    _, commands, events = run(fresh(), Mailbox(chunk(0, 0.0, [0.9, -0.9, 0.9])), 60)
    assert [event.log_code for event in events] == ["GATE_FAST"]
    speed = np.diff(commands[:, 0]) / T
    assert np.abs(speed).max() <= 1.0 + 1e-6
    assert np.abs(np.diff(speed)).max() / T <= 4.0 + 1e-4


def test_the_curve_never_overshoots_its_targets():
    curve = player.track(0.0, (0.0,), (0.0,), (0.1, 0.2, 0.3, 0.4), ((0.0,), (1.0,), (1.0,), (0.0,)))
    values = [player.sample(curve, 0.001 * k)[0] for k in range(401)]
    assert min(values) >= -1e-12
    assert max(values) <= 1.0 + 1e-12
    assert player.sample(curve, 0.41) is None


class Planar:
    """Two 'joints' that are one position and a gripper: pose x is the joint, the servo is perfect."""

    renderer, instruction = "none", "move"

    def __init__(self):
        self.time_s, self.q, self.sent = 3.0, [0.0, 0.5], []

    def connect(self, calibrate=True):
        pass

    def disconnect(self):
        pass

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
        return np.asarray([min(pose[0], 0.8)]), bool(pose[0] <= 0.8)


def planar_spec(**changes):
    facts = {
        "name": "planar",
        "joint_names": ("x", "gripper"),
        "limits": LIMITS,
        "cameras": ("scene",),
        "tasks": (),
        "period_s": T,
        "kinematics": Identity(),
        "simulate": lambda options: Planar(),
        "drive": None,
    }
    return RobotSpec(**facts | changes)


def actions(values, start_s=3.0, space="joint"):
    rows = [[v, 0.5] if space == "joint" else [v, 0, 0, 0, 0, 0, 0.5] for v in values]
    return ActionChunk(np.asarray(rows), start_s + 0.1 * np.arange(1, len(rows) + 1), space)


def test_the_arm_plays_a_chunk_on_its_own_clock_and_shows_every_frame():
    frames, robot = [], Planar()
    arm = VirtualArm(planar_spec(), robot, lambda observation, action: frames.append((observation, action)))
    arm.play(actions([0.005 * k * k for k in range(1, 8)]))
    assert len(robot.sent) == 35
    assert arm.time_s == pytest.approx(3.7)
    assert robot.time_s == pytest.approx(arm.time_s)
    for k, (observation, action) in enumerate(frames, 1):
        assert observation.time_s == pytest.approx(3.0 + 0.1 * k)
        assert observation.joints[0] == pytest.approx(action[0], abs=1e-9)


def test_poses_go_through_kinematics_and_unreachable_ones_are_told_once():
    arm = VirtualArm(planar_spec(), Planar())
    arm.play(actions([0.01, 0.03, 0.05], space="ee"))
    assert arm.observe().joints[0] == pytest.approx(0.05)
    assert not arm.events()
    arm.play(actions([0.9, 0.9, 0.9], start_s=3.3, space="ee"))
    assert [event.log_code for event in arm.events()][:1] == ["ARM_UNREACHABLE"]
    assert not arm.events()


def test_another_action_space_is_refused():
    with pytest.raises(ConfigError, match="joint or ee"):
        VirtualArm(planar_spec(), Planar()).play(ActionChunk(np.zeros((1, 2)), np.asarray([3.1]), "torque"))


@pytest.mark.parametrize("space", ["joint", "ee"])
def test_nan_brakes_latches_and_raises_with_the_arm_at_rest(space):
    robot = Planar()
    arm = VirtualArm(planar_spec(), robot)
    arm.play(actions([0.02, 0.05, 0.08]))
    with pytest.raises(GateLatchError) as caught:
        arm.play(actions([0.11, math.nan, 0.14], start_s=3.3, space=space))
    assert (caught.value.exit_code, caught.value.log_code) == (42, "GATE_NONFINITE")
    last = [tuple(action.values()) for action in robot.sent[-2:]]
    arm.stop()
    assert last[-1] == tuple(robot.sent[-1].values())


def test_ticks_do_not_drift_over_an_hour():
    arm = VirtualArm(planar_spec(), Planar())
    arm.hold(3600.0)
    assert arm.time_s == 3.0 + 180_000 * T


def test_same_chunks_same_commands():
    sent = []
    for _ in range(2):
        robot = Planar()
        arm = VirtualArm(planar_spec(), robot)
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
    assert callers == {"arm.py"}
    assert "gate.check" in (robots / "motion.py").read_text()
    assert "motion.step" in (robots / "arm.py").read_text()
