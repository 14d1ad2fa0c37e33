"""Motion as a process: what happens to the arm when whoever plans ends, hangs, talks nonsense or is told to stop."""

import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")

from dvgwm.robots import link, plant, process, serve
from dvgwm.robots.galaxea_a1 import ROBOT
from dvgwm.robots.link import Chunk, Kind
from dvgwm.robots.mirrored import MirroredArm
from dvgwm.robots.spec import SimulationOptions
from dvgwm.runtime.display.inspection import realtime
from dvgwm.runtime.errors import GateLatchError, RobotCommunicationError
from dvgwm.runtime.types import ActionChunk

pytestmark = pytest.mark.sim
OPTIONS = {"task": "fruit_in_bowl", "seed": 0, "height_px": 32, "width_px": 48}
RUN = 5


def at_rest(states):
    """Whether the last commands are one place."""
    return states[-1][1].resting and states[-1][1].commanded == states[-2][1].commanded


def test_a_planner_that_is_gone_is_noticed_and_the_arm_brakes(started):
    motion = started()
    motion.play()
    moved = motion.state.commanded[0]
    motion.line._end.shutdown(1)  # what a killed process leaves: the other end hears that it is over
    assert motion.ended(2) == 42
    assert at_rest(motion.states)
    assert motion.state.commanded[0] - moved < 0.1


def test_a_planner_that_hangs_is_noticed(started):
    """It is there, and says nothing. Within how many ticks: `test_faults.py`, on a clock that no machine's load moves."""
    motion = started()
    motion.play()
    motion.until(lambda: motion.state.latched, 2, alive=False)
    assert serve.CODES[motion.state.code] == "GATE_HEARTBEAT"
    motion.until(lambda: motion.state.resting, 2, alive=False)
    assert motion.process.poll() is None, "it holds the arm"
    motion.line.send(Kind.END, motion.now_s)
    assert motion.ended(2) == 0


def test_motion_has_real_time_priority_where_that_is_allowed(started):
    motion = started()
    threads = os.listdir(f"/proc/{motion.process.pid}/task")
    policies = {os.sched_getscheduler(int(thread)) for thread in threads}
    assert (os.SCHED_RR in policies) == realtime()
    lock = "import ctypes, sys; sys.exit(ctypes.CDLL(None).mlockall(3) != 0)"
    if subprocess.run([sys.executable, "-c", lock], check=False).returncode == 0:
        status = Path(f"/proc/{motion.process.pid}/status").read_text()
        assert int(status.split("VmLck:")[1].split()[0]) > 10_000, "kB"


def test_noise_other_runs_and_old_messages_are_not_heard(started):
    motion = started()
    before = motion.state.commanded
    chunk = link.pack_chunk(Chunk(1, math.nan, (motion.now_s + 0.5,), ((0.4, *before[1:]),)))
    other = link.pack(link.Message(Kind.CHUNK, motion.run + 1, 99, motion.now_s, chunk))
    for packet in (os.urandom(300), other, other[:-1], b"\0" * 40):
        motion.line._end.send(packet)
    motion.pass_time(0.4)
    assert motion.state.commanded == before
    assert not motion.state.latched


@pytest.mark.parametrize("times", [(math.nan,), (0.2, 0.1), ()])
def test_a_chunk_that_makes_no_sense_stops_the_arm(started, times):
    motion = started()
    motion.play()
    at_s = motion.now_s
    rows = tuple(motion.state.commanded for _ in times)
    body = link.pack_chunk(Chunk(2, math.nan, tuple(at_s + time_s for time_s in times), rows))
    motion.line.send(Kind.CHUNK, at_s, body if times else body + b"\0")
    motion.until(lambda: motion.state.resting, 1)
    assert not motion.state.latched


def test_limits_reach_the_process_and_are_never_wider(started):
    """The planner's side is not trusted: the process holds what it is told against the robot's own."""
    limits = ROBOT.arm.limits
    slow = replace(limits, joints=replace(limits.joints, velocity=(0.2, *limits.joints.velocity[1:])))
    motion = started(slow)
    motion.play()
    motion.pass_time(1.0)
    places = np.array([state.commanded[0] for _, state in motion.states])
    assert np.diff(places).max() / 0.02 == pytest.approx(0.2, abs=1e-6)
    motion.line.send(Kind.END, motion.now_s)
    assert motion.ended(2) == 0
    fast = replace(limits, joints=replace(limits.joints, velocity=(9.0, *limits.joints.velocity[1:])))
    here, there = link.link(RUN)
    order = {"run": RUN, "origin_s": 0.0, "options": OPTIONS, "limits": asdict(fast)}
    with there:
        child = process.start("galaxea_a1", there.fileno(), order)
    here.close()
    assert child.process.wait(20) == 2
    assert "LIMITS_WIDER wanted velocity of joint_1 of at most 1, got 9" in child.said()
    child.close()


class Deaf:
    """A robot whose driver raises from some call on, for some calls."""

    def __init__(self, method, first, count=10**9):
        self.method, self.raising, self.calls, self.sent = method, range(first, first + count), 0, []

    def answer(self, method):
        self.calls += method == self.method
        if method == self.method and self.calls in self.raising:
            raise OSError("no such device")

    def positions(self):
        self.answer("positions")
        return self.sent[-1] if self.sent else (0.0, 1.58, -1.14, 1.57, -1.13, 0.0, 0.5)

    def send_action(self, action):
        self.answer("send_action")
        self.sent.append(tuple(action.values()))

    def advance(self, seconds):
        pass

    def world(self):
        return ()

    def connect(self):
        pass

    disconnect = connect


def driven(robot):
    return plant.Driver(plant.SimulatedPlant(robot, 0.02), ROBOT.arm.joint_names, time.monotonic())


@pytest.fixture
def ends():
    """Both ends of a link, for a motion that runs in here."""
    here, there = link.link(RUN)
    there = link.Line(there, RUN)
    yield here, there
    here.close()
    there.close()


@pytest.mark.parametrize("method", ["positions", "send_action"])
def test_a_driver_that_fails_is_a_robot_that_does_not_answer(ends, method):
    robot, (_, there) = Deaf(method, 10), ends
    driver = driven(robot)
    core = serve.begin(ROBOT.arm, driver)
    with pytest.raises(RobotCommunicationError, match="OSError: no such device") as caught:
        serve.serve(core, driver, there, serve.Ending())
    assert caught.value.log_code == "ROBOT_DRIVER"
    assert robot.calls > 11, "not at the first failure"


@pytest.mark.parametrize("method", ["positions", "send_action"])
def test_a_driver_that_fails_once_is_forgiven(ends, method):
    robot, ending, (here, there) = Deaf(method, 10, count=1), serve.Ending(), ends
    timer = threading.Timer(0.6, lambda: setattr(ending, "code", 143))
    timer.start()
    driver = driven(robot)
    assert serve.serve(serve.begin(ROBOT.arm, driver), driver, there, ending) == 143
    timer.join()
    assert robot.calls > 11
    states = [link.unpack_state(message.body) for message in here.receive() if message.kind is Kind.STATE]
    assert len(states) > 11
    assert not any(state.latched for state in states)


def test_an_arm_in_another_process_plays_in_real_time_and_is_seen():
    frames = []
    arm = MirroredArm(ROBOT, SimulationOptions(**OPTIONS), lambda seen, action: frames.append((seen, action)))
    try:
        first, begun_s = arm.observe(), arm.time_s
        swing = np.outer(0.1 * (1 - np.cos(0.15 * np.arange(1, 11))), (1, 0, 0, 0, 0, 0, 0)) + first.joints
        arm.play(ActionChunk(swing, begun_s + 0.1 * np.arange(1, 11), "joint", None, first.time_s))
        assert arm.time_s - begun_s == pytest.approx(1.0, abs=0.3)
        assert len(frames) == 10
        assert frames[-1][0].joints[0] == pytest.approx(swing[-1][0], abs=0.02)
        assert any(not np.array_equal(first.images[name], frames[-1][0].images[name]) for name in first.images)
        assert not arm.events()
        turned = np.array([[*swing[-1][:5], 0.3, swing[-1][6]]])
        arm.play(ActionChunk(turned, arm.time_s + np.array([0.1]), "joint", None, first.time_s))
        motion = arm.recorded()
        times_s = [tick.time_s for tick in motion.ticks]
        assert motion.joint_names == ROBOT.arm.joint_names
        assert times_s == sorted(times_s)
        assert len(times_s) > 40
        assert "MOTION_FAST" in {tick.log_code for tick in motion.ticks}
        assert [event.message for event in arm.events()] == ["the chunk was too fast at joint 6: slowed down"]
        arm.stop()
        arm._process.kill()
        arm._process.wait()
        with pytest.raises(RobotCommunicationError) as caught:
            arm.observe()
        assert caught.value.log_code == "MOTION_ENDED"
    finally:
        arm.close()


def test_why_motion_did_not_begin_is_told_as_its_own_error():
    limits = ROBOT.arm.limits
    high = replace(limits, workspace=replace(limits.workspace, lower_m=(-0.8, -0.8, 0.5)))
    with pytest.raises(GateLatchError, match="tool stands outside") as caught:
        MirroredArm(replace(ROBOT, arm=replace(ROBOT.arm, limits=high)), SimulationOptions(**OPTIONS))
    assert caught.value.log_code == "ARM_OUTSIDE"


@pytest.mark.thorough
def test_after_a_plan_that_took_longer_than_the_link_holds_states_the_newest_is_seen():
    arm = MirroredArm(ROBOT, SimulationOptions(**OPTIONS))
    try:
        time.sleep(7.0)
        seen = arm.observe()
        assert arm.time_s - seen.time_s < 1.0
    finally:
        arm.close()


def test_motion_needs_no_torch_no_engines_and_no_multiprocessing():
    code = "import dvgwm.robots.process, sys; print({'torch', 'onnxruntime', 'multiprocessing'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
