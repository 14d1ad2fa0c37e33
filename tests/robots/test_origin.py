"""Motion has the robot that whoever plans has, or it does not begin."""

import pytest

from dvgwm.robots import mirrored, origin
from dvgwm.robots.spec import SimulationOptions
from dvgwm.runtime.errors import ConfigError

OPTIONS = SimulationOptions("fruit_in_bowl", 0, 32, 48)
OTHER = """
import os
from dataclasses import replace
from dvgwm.robots.galaxea_a1 import ROBOT as A1
limits = A1.arm.limits
most = float(os.environ.get("MOST", "1"))
joints = replace(limits.joints, velocity=tuple(most * v for v in limits.joints.velocity))
arm = replace(A1.arm, name="other", limits=replace(limits, joints=joints))
ROBOT = replace(A1, arm=arm)
"""


@pytest.mark.parametrize("changed", ["package", "object", "file", "limits"])
def test_whatever_differs_is_told(changed):
    own = origin.origin("galaxea_a1")
    assert set(own) == {"package", "object", "file", "limits"}
    origin.check_origin("galaxea_a1", own)
    with pytest.raises(ConfigError, match=f"{changed} .* not another") as caught:
        origin.check_origin("galaxea_a1", {**own, changed: "another"})
    assert (caught.value.exit_code, caught.value.log_code) == (2, "ROBOT_ORIGIN")


@pytest.mark.sim
@pytest.mark.parametrize("change", ["limits", "file", "package"])
def test_motion_with_another_robot_of_that_name_does_not_begin(install, tmp_path, monkeypatch, change):
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    install("other_robot", OTHER, {"robots": "other = other_robot:ROBOT"})
    spec = origin.load("other")
    seen = origin.origin("other")
    if change == "limits":
        monkeypatch.setenv("MOST", "10")
    elif change == "file":
        twin = tmp_path / "twin"
        twin.mkdir()
        (twin / "other_robot.py").write_text(OTHER)
        monkeypatch.setenv("PYTHONPATH", f"{twin}:{tmp_path / 'site'}")
    else:
        facts = tmp_path / "twin" / "other_robot-2.0.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: other-robot\nVersion: 2.0\n")
        (facts / "entry_points.txt").write_text("[dvgwm.robots]\nother = other_robot:ROBOT\n")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'twin'}:{tmp_path / 'site'}")
    with pytest.raises(ConfigError) as caught:
        mirrored.MirroredArm(spec, OPTIONS)
    assert caught.value.log_code == "ROBOT_ORIGIN"
    assert f"{change} " in str(caught.value)
    assert seen == origin.origin("other"), "here nothing has changed"
