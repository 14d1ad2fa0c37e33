"""A lab's limits: tighter than the robot's own, or refused."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dvgwm.robots import gate
from dvgwm.robots.a1_model import A1, SAFETY
from dvgwm.robots.galaxea_a1 import ROBOT
from dvgwm.robots.tightening import tightened, wider
from dvgwm.runtime.errors import ConfigError

NAMES = A1.joint_names


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "lab.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def limits(path):
    return tightened(ROBOT, path).arm.limits


def test_what_a_file_says_is_tighter_and_the_rest_is_as_it_was(file):
    tight = limits(
        file(
            """
            [joints.joint_1]
            lower = -1.0
            upper = 1
            velocity = 0.5
            tracking = 0.05
            [joints.gripper]
            acceleration = 5.0
            [tool]
            lower_m = [0.1, -0.3, 0.0]
            speed_m_s = 0.25
            [ages]
            action_s = 5.0
            """
        )
    )
    joints, own = tight.joints, SAFETY.joints
    assert (joints.lower[0], joints.upper[0], joints.velocity[0], joints.acceleration[6]) == (-1.0, 1.0, 0.5, 5.0)
    assert (joints.lower[1:], joints.upper[1:], joints.velocity[1:]) == (own.lower[1:], own.upper[1:], own.velocity[1:])
    assert joints.acceleration[:6] == own.acceleration[:6]
    assert tight.tracking == (0.05, *SAFETY.tracking[1:])
    assert tight.workspace == replace(SAFETY.workspace, lower_m=(0.1, -0.3, 0.0), speed_m_s=0.25)
    assert (tight.action_age_s, tight.frame_age_s) == (5.0, SAFETY.frame_age_s)
    assert not list(wider(tight, SAFETY, NAMES))


def test_an_empty_file_changes_nothing(file):
    assert limits(file("")) == SAFETY


def test_the_robots_own_numbers_are_no_wider(file):
    assert limits(file("[joints.joint_1]\nvelocity = 1.0\n[tool]\nspeed_m_s = 0.4\n")) == SAFETY


WIDER = {
    "lower": ("[joints.joint_1]\nlower = -3.0", "lower of joint_1 of at least -2.8798, got -3"),
    "upper": ("[joints.joint_3]\nupper = 0.1", "upper of joint_3 of at most 0, got 0.1"),
    "velocity": ("[joints.joint_2]\nvelocity = 1.01", "velocity of joint_2 of at most 1, got 1.01"),
    "acceleration": ("[joints.joint_2]\nacceleration = 4.01", "acceleration of joint_2"),
    "leap": ("[joints.joint_2]\nleap = 0.6", "leap of joint_2"),
    "jump": ("[joints.gripper]\njump = 0.09", "jump of gripper"),
    "tracking": ("[joints.joint_6]\ntracking = inf", "tracking of joint_6 of at most 0.1, got inf"),
    "box": ("[tool]\nlower_m = [-0.8, -0.8, -0.03]", "lower_m z of at least -0.02, got -0.03"),
    "box above": ("[tool]\nupper_m = [0.9, 0.8, 1.0]", "upper_m x of at most 0.8, got 0.9"),
    "tool": ("[tool]\nspeed_m_s = 0.41", "speed_m_s of at most 0.4, got 0.41"),
    "age": ("[ages]\nheartbeat_s = 0.1", "heartbeat_age_s of at most 0.09, got 0.1"),
}


@pytest.mark.parametrize("name", WIDER)
def test_a_wider_limit_is_refused(file, name):
    text, said = WIDER[name]
    with pytest.raises(ConfigError) as caught:
        limits(file(text))
    assert caught.value.log_code == "LIMITS_WIDER"
    assert said in str(caught.value)


def test_everything_that_is_wider_is_told_at_once(file):
    with pytest.raises(ConfigError, match=r"joint_1.*joint_2.*speed_m_s"):
        limits(file("[joints.joint_1]\nvelocity=2.0\n[joints.joint_2]\nleap=9.0\n[tool]\nspeed_m_s=1.0"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[joints.joint_1]\nvelocty = 0.5", "LIMITS_FILE"),
        ("[joint.joint_1]\nvelocity = 0.5", "LIMITS_FILE"),
        ("[joints.joint_7]\nvelocity = 0.5", "LIMITS_JOINT"),
        ("[joints.joint_1]\nvelocity = '0.5'", "LIMITS_FILE"),
        ("[joints.joint_1]\nvelocity = true", "LIMITS_FILE"),
        ("[joints.joint_1]\nvelocity = [0.5]", "LIMITS_FILE"),
        ("[joints.joint_1]\nvelocity = nan", "LIMITS_FINITE"),
        ("[joints.joint_1]\nvelocity = 0.0", "LIMITS_SPEED"),
        ("[joints.joint_1]\nvelocity = -0.5", "LIMITS_SPEED"),
        ("[joints.joint_1]\nacceleration = 1e-308", "LIMITS_SPEED"),
        ("[tool]\nspeed_m_s = 1e-308", "LIMITS_SPEED"),
        ("[joints.joint_1]\nlower = 1.0\nupper = 0.5", "LIMITS_RANGE"),
        ("[joints.joint_1]\njump = nan", "LIMITS_SPEED"),
        ("[joints.joint_1]\nlower = 1" + "0" * 400, "LIMITS_FILE"),
        ("[joints.joint_1]\nlower = 2020-01-01", "LIMITS_FILE"),
        ("joints = 3", "LIMITS_FILE"),
        ("[tool]\nlower_m = [0.0, 0.0]", "LIMITS_FILE"),
        ("[tool]\nlower_m = [nan, 0.0, 0.0]", "LIMITS_RANGE"),
        ("[tool]\nspeed_m_s = nan", "LIMITS_SPEED"),
        ("[tool]\nchain = 1", "LIMITS_FILE"),
        ("[ages]\naction_s = 0", "LIMITS_SPEED"),
        ("[ages]\naction_s = nan", "LIMITS_SPEED"),
        ("[joints.joint_1", "LIMITS_FILE"),
        (b"\xff\xfe", "LIMITS_FILE"),
        ("a = " + "[" * 5000, "LIMITS_FILE"),
        ("#" * 100_001, "LIMITS_FILE"),
    ],
)
def test_what_makes_no_sense_is_refused(file, text, code):
    path = file(text)
    with pytest.raises(ConfigError) as caught:
        limits(path)
    assert (caught.value.log_code, caught.value.exit_code) == (code, 2)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_a_folder_and_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    for path in (tmp_path / "none.toml", tmp_path, tmp_path / "pipe.toml"):
        with pytest.raises(ConfigError) as caught:
            limits(path)
        assert caught.value.log_code == "LIMITS_FILE"


def test_no_workspace_and_another_arm_are_wider():
    moved = replace(SAFETY.workspace, chain=replace(SAFETY.workspace.chain, tool_m=(0.0, 0.0, 0.1)))
    assert list(wider(replace(SAFETY, workspace=None), SAFETY, NAMES))
    assert list(wider(replace(SAFETY, workspace=moved), SAFETY, NAMES))
    assert list(wider(replace(SAFETY, action_age_s=math.inf), SAFETY, NAMES))


def test_a_tightened_gate_is_tighter(file):
    tight = limits(file("[joints.joint_1]\nvelocity = 0.1"))
    state = gate.rest((0.0, 1.58, -1.14, 1.57, -1.13, 0.0, 0.5))
    for _ in range(5):
        state, verdict = gate.check(tight, 0.02, state, (state.position[0] + 0.004, *state.position[1:]))
    assert verdict.log_code == "GATE_FAST"
    assert state.velocity[0] == pytest.approx(0.1)


@pytest.mark.sim
def test_the_command_takes_a_file_and_refuses_a_wider_one_before_anything_is_opened(make_bundle, file, tmp_path):
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    from click.testing import CliRunner

    from dvgwm.runtime.cli import cli

    line = ["--robot", "galaxea_a1", "--backend", "fake", "--bundle", str(make_bundle().path), "--max-actions", "8"]
    line += ["--out", str(tmp_path / "run"), "--limits"]
    done = CliRunner().invoke(cli, [*line, str(file("[tool]\nspeed_m_s = 0.02"))], catch_exceptions=False)
    assert "MOTION_TOOL_FAST" in json.loads(done.output.splitlines()[-1])["events"]
    assert "tightened by" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(cli, [*line, str(file("[tool]\nspeed_m_s = 4.0"))], catch_exceptions=False)
    assert caught.value.log_code == "LIMITS_WIDER"


def test_the_page_shows_a_file_that_works(file):
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
    tight = limits(file(page.split("```toml\n")[1].split("```")[0]))
    assert tight != SAFETY
