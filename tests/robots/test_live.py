"""A whole run against the simulated A1 behind the vendor's topics: nothing moves before a person says so, or in a dry run."""

import gc
import itertools
import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from dvgwm.robots.galaxea_a1 import ROBOT
from dvgwm.robots.live import open_live_arm
from dvgwm.runtime.cameras import reader
from dvgwm.runtime.cameras.reader import CameraReader
from dvgwm.runtime.errors import CameraLostError, DvgwmError, GateLatchError
from dvgwm.runtime.types import ActionChunk

pytestmark = [pytest.mark.sim, pytest.mark.ort]
COMMAND = [sys.executable, "-c", "from dvgwm.runtime.cli import main; main()"]


def words(node, *more):
    instruction = node.ready["instruction"]
    camera = f"ros://{node.address}{node.ready['camera']}"
    live = ["--robot", "galaxea_a1", "--live", "--arm", node.address, "--camera", camera, "--instruction", instruction]
    return [*COMMAND, *live, *more]


def at_a_terminal(command, folder, answers, during=lambda: None):
    """Run a command at a terminal where somebody gives ``answers``; return its exit code and what it showed."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvp(command[0], command)
    shown, asked, end_s = b"", 0, time.monotonic() + 120
    while time.monotonic() < end_s:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # what is at the other end has ended
            break
        shown += data
        if shown.count(b"to end:") > asked:
            during()
            os.write(terminal, f"{answers[asked]}\n".encode())
            asked += 1
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode()


@pytest.mark.alone
@pytest.mark.few(1)
@pytest.mark.parametrize("actions", [24, 96])
def test_a_dry_run_is_an_episode_that_sends_nothing(a1_node, tmp_path, actions):
    node = a1_node(seed=1)
    before = node.ask()
    done = subprocess.run(
        words(node, "--dry-run", "--max-actions", str(actions), "--out", "out"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["dry_run"], result["actions"], result["stopped"]) == (True, actions, None)
    after = node.ask()
    assert after["commands"] == 0
    assert after["joints"] == pytest.approx(before["joints"], abs=1e-3)
    assert "dry run, nothing was sent" in (tmp_path / "out" / "report.html").read_text()
    ticks = (tmp_path / "out" / "motion.csv").read_text().splitlines()
    assert len(ticks) > 4 * actions, "it shows where the arm would have gone"


@pytest.mark.alone
def test_the_arm_moves_once_a_person_typed_arm(a1_node, tmp_path):
    node = a1_node(seed=1)
    before, asked = node.ask(), []
    more = ["--max-actions", "12", "--approve", "--out", "out"]
    code, shown = at_a_terminal(
        words(node, *more), tmp_path, ["arm", "another", "yes"], lambda: asked.append(node.ask())
    )
    assert code == 0, shown
    assert "Type arm to let it move" in shown
    assert "▀" in shown, "the plan is drawn"
    assert (tmp_path / "out" / "imagined-2.mp4").exists()
    assert asked[0]["commands"] == 0, "before it is armed"
    assert asked[1]["joints"] == pytest.approx(before["joints"], abs=1e-3), "before the plan is approved"
    after = node.ask()
    assert after["commands"] > 50
    assert np.abs(np.subtract(after["joints"], before["joints"])).max() > 0.05


@pytest.mark.thorough
@pytest.mark.parametrize(("answers", "code"), [(["no"], "ARM_DECLINED"), (["arm", "no"], "PLAN_DECLINED")])
def test_a_person_who_says_no_is_heard(a1_node, tmp_path, answers, code):
    node = a1_node()
    before = node.ask()
    ended, shown = at_a_terminal(words(node, "--approve", "--out", "out"), tmp_path, answers)
    assert ended == 130
    assert f"E130 {code}" in shown
    after = node.ask()
    assert after["joints"] == pytest.approx(before["joints"], abs=1e-3)
    assert (after["commands"] == 0) == (code == "ARM_DECLINED")
    assert not (tmp_path / "out").exists()


@pytest.mark.few(1)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_words_that_were_never_learnt_move_no_arm(a1_node, tmp_path, more):
    node = a1_node()
    more = ["--instruction", "put the hammer into the bowl", "--out", "out", *more]
    code, shown = at_a_terminal(words(node, *more), tmp_path, ["arm"])
    assert code == 2
    assert "E2 UNFAMILIAR" in shown
    assert "'hammer'" in shown
    assert "Type arm" not in shown
    assert node.ask()["commands"] == 0
    assert not (tmp_path / "out").exists()


def test_no_arm_moves_by_a_recording(a1_node, tmp_path):
    node = a1_node()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(tmp_path / "scene.png")
    code, shown = at_a_terminal([*words(node), "--camera", "scene.png"], tmp_path, ["arm"])
    assert code == 2
    assert "CAMERA_RECORDED" in shown
    assert node.ask()["commands"] == 0


@pytest.fixture
def live_arm(a1_node):
    """What opens a node, its camera and the arm behind it."""
    opened = []

    def start(**options):
        node = a1_node(**options)
        camera = CameraReader(f"ros://{node.address}{node.ready['camera']}", 32, 48)
        opened.append(camera)
        seen = {"camera": camera, "camera_name": "scene", "dry_run": False}
        arm = open_live_arm(ROBOT, address=node.address, settings={}, **seen)
        opened.append(arm)
        return node, camera, arm

    yield start
    for each in reversed(opened):
        each.close()


def chunk(arm, seconds=2.0, reach=0.3):
    """Return a chunk that swings the first joint."""
    seen = arm.observe()
    count = round(10 * seconds)
    swing = np.outer(reach * (1 - np.cos(0.08 * np.arange(1, count + 1))), (1, 0, 0, 0, 0, 0, 0)) + seen.joints
    return ActionChunk(swing, seen.time_s + 0.1 * np.arange(1, count + 1), "joint", None, seen.time_s)


@pytest.mark.thorough
def test_an_arm_that_moved_while_one_looked_is_not_armed(live_arm):
    node, _, arm = live_arm()
    assert all(check.fine for check in arm.checks())
    node.say(go=[0.2, *node.ask()["joints"][1:6]])
    time.sleep(1.0)
    with pytest.raises(GateLatchError, match="joint_1 was seen at") as caught:
        arm.arm()
    assert caught.value.log_code == "ARM_MOVED"
    assert node.ask()["commands"] == 0


def test_every_mismatch_is_told_at_once(live_arm):
    node, _, arm = live_arm()
    node.say(codes=[0, 0, 1 << 9, 0, 0, 0], go=[-0.5, *node.ask()["joints"][1:6]])
    wrong = {check.what: check for check in arm.checks() if not check.fine}
    assert set(wrong) == {"robot", "pose"}
    assert "torque limit" in wrong["robot"].found
    assert "moved by" in wrong["pose"].found
    assert all(check.remedy for check in wrong.values())
    with pytest.raises(DvgwmError):
        arm.arm()
    assert node.ask()["commands"] == 0


@pytest.mark.thorough
def test_every_combination_of_what_is_wrong_keeps_the_arm_locked(live_arm, monkeypatch):
    """Camera, robot and pose: only where all three are well is there nothing that is not."""
    monkeypatch.setattr(reader, "LOST_S", 0.3)
    node, camera, arm = live_arm()
    camera.latest()
    place, told = node.ask()["joints"][:6], {}
    for blind, stopped, moving in itertools.product((False, True), repeat=3):
        fault = {"mute_frames": blind} | ({"codes": [1 << 9, 0, 0, 0, 0, 0]} if stopped else {})
        node.say(**fault, go=[place[0] + (0.5 if moving else 0.0), *place[1:]])
        told[blind, stopped, moving] = {check.what for check in arm.checks() if not check.fine}
        node.say(go=place)
        time.sleep(0.8)
        camera.latest()
    for (blind, stopped, moving), wrong in told.items():
        # A camera that shows nothing is not looked through for a second, in which an arm would be seen to move.
        assert wrong >= {what for what, is_wrong in (("camera", blind), ("robot", stopped)) if is_wrong}
        assert bool(wrong) == (blind or stopped or moving)
        assert ("pose" in wrong) == moving or blind
    assert node.ask()["commands"] == 0


@pytest.mark.alone
@pytest.mark.thorough
def test_a_camera_that_is_lost_stops_the_arm(live_arm):
    node, _, arm = live_arm()
    arm.checks()
    arm.arm()
    action = chunk(arm)
    node.say(mute_frames=True)
    begun_s = time.monotonic()
    arm.play(action)
    assert [event.log_code for event in arm.events()][:1] == ["GATE_FRAME"]
    with pytest.raises(CameraLostError) as caught:
        arm.observe()
    assert caught.value.log_code == "CAMERA_STALE"
    assert time.monotonic() - begun_s < 12, "it is not waited for longer than stated"
    assert "MOTION_PAUSED" in [event.log_code for event in arm.events()]


@pytest.mark.alone
def test_a_camera_that_is_back_is_seen_again(live_arm):
    node, camera, arm = live_arm()
    arm.checks()
    arm.arm()
    node.say(mute_frames=True)
    time.sleep(0.5)
    node.say()
    assert arm.observe().images["scene"].shape == (32, 48, 3)
    assert not camera.restarts
    arm.play(chunk(arm, 1.0, 0.1))
    assert not arm.events()
    assert Path(f"/proc/{arm._process.pid}").exists()


@pytest.mark.alone
def test_a_clock_that_is_set_at_the_robots_side_is_told(live_arm):
    node, _, arm = live_arm()
    arm.checks()
    assert "clock" not in arm.about
    arm.arm()
    node.say(joints="set_forward", by_s=0.4)
    arm.play(chunk(arm, 1.0, 0.1))
    told = {event.log_code: event.message for event in arm.events()}
    assert set(told) == {"ROBOT_ABOUT"}
    assert "its clock was set forward by 0.40 s" in told["ROBOT_ABOUT"]


@pytest.mark.alone
def test_garbage_is_not_looked_for_in_what_was_there_before(live_arm):
    """A compiler's graphs are millions of objects; looking through them all is a second without a sign of life."""
    _, _, arm = live_arm()
    gc.disable()
    there = [[[]] for _ in range(2_000_000)]
    gc.enable()
    try:
        arm.checks()
        arm.arm()
        threading.Timer(0.5, gc.collect).start()
        arm.play(chunk(arm, 1.0, 0.1))
        assert not arm.events()
        assert there, "it was kept until here"
    finally:
        gc.unfreeze()


def doctor(folder, *words):
    done = subprocess.run([*COMMAND, "doctor", *words], cwd=folder, capture_output=True, text=True, timeout=60)
    result = json.loads(done.stdout.splitlines()[-1])
    return done.returncode, {check["what"]: check for check in result["checks"]}, done


def test_the_doctor_finds_all_well(a1_node, tmp_path):
    node = a1_node()
    camera = f"ros://{node.address}{node.ready['camera']}"
    code, checks, done = doctor(tmp_path, "--robot", "galaxea_a1", "--arm", node.address, "--camera", camera)
    assert code == 0, done.stderr
    assert {"bundle", "limits", "picture", "camera", "robot", "pose", "actions", "clock", "disk"} <= set(checks)
    assert all(check["fine"] for check in checks.values())
    assert node.ask()["commands"] == 0


@pytest.mark.thorough
def test_the_doctor_tells_every_mismatch_at_once(a1_node, tmp_path):
    node = a1_node()
    node.say(codes=[0, 1 << 8, 0, 0, 0, 0])
    (tmp_path / "wide.toml").write_text("[joints.joint_1]\nvelocity = 9.0\n")
    Image.new("RGB", (64, 48), "black").save(tmp_path / "black.png")
    wrong = ["--bundle", "absent", "--camera", "black.png", "--arm", node.address]
    code, checks, done = doctor(tmp_path, "--robot", "galaxea_a1", *wrong)
    assert {what for what, check in checks.items() if not check["fine"]} == {"bundle", "picture", "robot"}
    assert code == 10, "the first of them"
    assert done.stderr.startswith("E10 BUNDLE_MISSING")
    for said in ("BUNDLE_MISSING", "CAMERA_BLANK", "speed limit"):
        assert said in done.stdout
    code, checks, _ = doctor(tmp_path, "--robot", "galaxea_a1", "--limits", "wide.toml")
    assert (code, checks["limits"]["fine"]) == (2, False)


def test_the_doctor_wants_a_robot_for_its_arm(tmp_path):
    done = subprocess.run([*COMMAND, "doctor", "--arm", "x"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--arm goes with --robot" in done.stderr
    done = subprocess.run(
        [*COMMAND, "doctor", "--robot", "r2d2"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "known: franka, galaxea_a1, ur7e" in done.stderr


def test_a_robot_that_is_not_simulated_says_what_moves_it(tmp_path):
    done = subprocess.run([*COMMAND, "--robot", "ur7e"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "ROBOT_UNSIMULATED" in done.stderr
    assert "--live --arm ADDRESS" in done.stderr


def test_no_library_of_a_robot_or_camera_is_imported_before_it_is_asked_for():
    code = (
        "import sys\nfrom importlib.metadata import entry_points\n"
        "for group in ('dvgwm.robots', 'dvgwm.cameras', 'dvgwm.arm'):\n"
        "    [entry.load() for entry in entry_points(group=group)]\n"
        "theirs = {'rospy', 'rtde_control', 'rtde_receive', 'franky', 'pyrealsense2', 'cv2', 'mujoco', 'torch'}\n"
        "print(theirs & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
