"""A motion process in the hands of a test, which is its planner."""

import gc
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from dvgwm.robots import link, process, ros
from dvgwm.robots.a1_model import SAFETY
from dvgwm.robots.link import Chunk, Kind
from dvgwm.runtime.errors import RobotCommunicationError

OPTIONS = {"task": "fruit_in_bowl", "seed": 0, "height_px": 32, "width_px": 48}


class Motion:
    """A motion process and the planner's end of its link, in the hands of a test."""

    run = 5

    def __init__(self, limits=SAFETY, robot="galaxea_a1", address=None, wait=True):
        # On two cores with tests on both: a planner that is kept waiting for them is one that gave no sign of life.
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(process.OTHERS))
        gc.disable()  # which looks through what other tests left here, longer than a planner may be silent
        self.line, there = link.link(self.run)
        self.origin_s, self.states, self.said = time.monotonic(), [], []
        order = {"run": self.run, "origin_s": self.origin_s, "limits": asdict(limits)}
        order |= {"options": OPTIONS} if address is None else {"drive": {"address": address, "settings": {}}}
        with there:
            self.child = process.start(robot, there.fileno(), order)
        self.process = self.child.process
        if wait:
            self.until(lambda: self.states, 20)

    @property
    def now_s(self):
        return time.monotonic() - self.origin_s

    @property
    def state(self):
        return self.states[-1][1]

    def hear(self):
        for message in self.line.receive():
            if message.kind is Kind.STATE:
                self.states.append((message.sent_s, link.unpack_state(message.body)))
            else:
                self.said.append(message.body.decode())

    def until(self, done, seconds, alive=True):
        """Listen, and say that one is alive, until ``done()``; return how long it took."""
        begun_s = self.now_s
        while not done():
            assert self.now_s - begun_s < seconds, f"it took too long: {self.states[-1:]} {self.said}"
            if alive:
                self.line.send(Kind.ALIVE, self.now_s)
            time.sleep(0.005)
            self.hear()
        return self.now_s - begun_s

    def pass_time(self, seconds):
        """Listen and be alive for so long."""
        end_s = self.now_s + seconds
        self.until(lambda: self.now_s > end_s, seconds + 2)

    def play(self, seconds=3.0, sequence=1):
        """Have the arm move for some seconds, and return when it does."""
        count = round(seconds * 10)
        side = -1.0 if self.state.commanded[0] > 1.0 else 1.0  # one that is played with again and again has room
        swing = np.outer(0.3 * side * (1 - np.cos(0.08 * np.arange(1, count + 1))), (1, 0, 0, 0, 0, 0, 0))
        times_s = tuple(float(self.now_s + 0.1 * (k + 1)) for k in range(count))
        targets = tuple(map(tuple, (swing + self.state.commanded).tolist()))
        self.line.send(Kind.CHUNK, self.now_s, link.pack_chunk(Chunk(sequence, math.nan, times_s, targets)))
        self.until(lambda: abs(self.speed()) > 0.1, 2)

    def arm(self):
        """Have it take hold of a real arm where it is."""
        self.line.send(Kind.ARM, self.now_s, link.pack_pose(self.state.measured))
        self.until(lambda: self.state.armed, 30)  # a vendor's library takes its time to connect on a busy machine

    def speed(self):
        """Return how fast the first joint was told to move last, in rad/s."""
        if len(self.states) < 2:
            return 0.0
        (before_s, before), (after_s, after) = self.states[-2:]
        return (after.commanded[0] - before.commanded[0]) / max(after_s - before_s, 1e-3)

    def ended(self, seconds):
        """Return the exit code; what is still to be heard is."""
        code = self.process.wait(seconds)
        self.hear()
        return code

    def close(self):
        """End it, whatever it does."""
        gc.enable()
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        self.process.kill()
        self.process.wait()
        self.child.close()
        self.line.close()


@pytest.fixture(scope="session")
def motion_process():
    """What starts a motion process; whoever does so closes it."""
    return Motion


@pytest.fixture
def started():
    """Start a motion process, of the Galaxea A1 and its limits where no others are named; all end with the test."""
    made = []

    def start(limits=SAFETY):
        made.append(Motion(limits))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def ros_installed():
    """Skip without ROS 1, which no package index has."""
    if not ros.found():
        pytest.skip("ROS 1 is not installed (docs/robots.md)")
    return


def descendants(process):
    """Return the numbers of a process and of all that it started."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(each for child in children for each in descendants(int(child)))]


@pytest.fixture(scope="session")
def ros_master(ros_installed, tmp_path_factory):
    """What starts a real ROS master on a free port of an address of this machine: a generator of its address, which ends it."""
    if shutil.which("roscore") is None:
        pytest.skip("roscore is not installed (docs/robots.md)")

    def start(ip):
        with socket.socket() as free:
            free.bind((ip, 0))
            port = free.getsockname()[1]
        home = tmp_path_factory.mktemp("ros")
        own = {"ROS_HOME": str(home), "ROS_IP": ip, "ROS_MASTER_URI": f"http://{ip}:{port}"}
        core = subprocess.Popen(
            ["roscore", "-p", str(port)],
            env=os.environ | own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end_s = time.monotonic() + 30
        while time.monotonic() < end_s:
            try:
                ros.topics(ip, port)
                break
            except RobotCommunicationError:
                time.sleep(0.1)
        yield f"{ip}:{port}"
        for each in descendants(core.pid):  # told to end, it takes ten seconds
            os.kill(each, signal.SIGKILL)
        core.wait()

    return start


@pytest.fixture(scope="session")
def roscore(ros_master):
    """A real ROS master on loopback; its address."""
    yield from ros_master("127.0.0.1")


class Counterpart:
    """A robot's counterpart in a process of its own, at ``address``."""

    def __init__(self, script, address, *words, **own):
        self.address = address
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / script), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | own,
        )
        self.ready = json.loads(self.process.stdout.readline())

    def say(self, **order):
        """Give it a fault, or none."""
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def ask(self):
        """Return what it knows of its world."""
        self.say(ask=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # what it was not sent is of no use
                stream.close()


class Counterparts:
    """Starts counterparts of a robot, and keeps them."""

    def __init__(self, start):
        self.made, self._start = [], start

    def __call__(self, **options):
        self.made.append(self._start(len(self.made), options))
        return self.made[-1]

    def close(self):
        for each in self.made:
            each.close()


@pytest.fixture(scope="module")
def a1_node(roscore, tmp_path_factory):
    """What starts a simulated A1 behind the vendor's topics; there is one at a time."""
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    own = {"ROS_HOME": str(tmp_path_factory.mktemp("ros")), "ROS_IP": "127.0.0.1"}

    def start(number, options):
        nodes.close()
        master = options.pop("master", roscore)
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return Counterpart("ros_counterpart.py", master, "--master", master, *words, **own)

    nodes = Counterparts(start)
    yield nodes
    nodes.close()


@pytest.fixture
def ros_rival(roscore, tmp_path):
    """What starts another node on a topic: the master's address, the topic, messages a second, and how old their stamps are."""
    own = {"ROS_HOME": str(tmp_path), "ROS_IP": "127.0.0.1"}
    made = []

    def start(address, topic, rate_hz, old_s):
        made.append(Counterpart("ros_rival.py", address, address, topic, str(rate_hz), str(old_s), **own))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def ur_controller():
    """What starts a UR controller, whose ports are given, at an address of its own."""
    pytest.importorskip("rtde_receive", reason="ur-rtde is not installed")

    def start(number, options):
        address = f"127.{os.getpid() >> 8 & 255}.{os.getpid() & 255}.{number + 1}"
        return Counterpart("ur_counterpart.py", address, address)

    controllers = Counterparts(start)
    yield controllers
    controllers.close()
