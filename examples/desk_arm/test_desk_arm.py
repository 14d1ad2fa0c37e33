"""The driver against an arm that answers on loopback, alone and behind dvgwm's motion."""

import json
import socket
import threading
import time

import pytest
from desk_arm import DESK_ARM, ROBOT

from dvgwm.robots import plant, serve
from dvgwm.robots.link import Chunk, Kind, Line, link, pack_chunk
from dvgwm.robots.spec import DriveOptions
from dvgwm.runtime.errors import RobotCommunicationError

HOME = [0.0, 1.58, -1.14, 1.57, -1.13, 0.0, 0.5]


class Arm(threading.Thread):
    """The other end: where it is told to be it is at once, and it says so a hundred times a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.server.getsockname()[1]}"
        self.places, self.stop, self.silent, self.targets = HOME, None, False, []
        self.start()

    def run(self):
        line, _ = self.server.accept()
        threading.Thread(target=self.take, args=(line,), daemon=True).start()
        while True:
            if not self.silent:
                told = {"t": 100.0 + time.monotonic(), "q": self.places, "stop": self.stop}
                try:
                    line.sendall(json.dumps(told).encode() + b"\n")
                except OSError:
                    return
            time.sleep(0.01)

    def take(self, line):
        for target in line.makefile():
            self.places = json.loads(target)
            self.targets.append(self.places)


@pytest.fixture
def arm():
    return Arm()


@pytest.fixture
def driver(arm):
    driver = ROBOT.drive(DriveOptions(arm.address))
    driver.connect()
    yield driver
    driver.disconnect()


def test_it_tells_where_it_is_and_goes_where_it_is_told(arm, driver):
    assert driver.state().positions == tuple(HOME)
    driver.send_action(dict(driver.get_observation(), **{"joint_1.pos": 0.1}))
    time.sleep(0.1)
    assert driver.state().positions[0] == 0.1
    arm.stop = "stop button"
    time.sleep(0.1)
    assert driver.state().stop == "stop button"


def test_nobody_there_is_told():
    with pytest.raises(RobotCommunicationError, match="no desk arm at"):
        ROBOT.drive(DriveOptions("127.0.0.1:9")).connect()


def test_motion_is_in_between(arm, driver):
    """A target that is far away is gone to at the joint's own speed; an arm that falls silent is sent nothing more."""
    here, there = link(1)
    there = Line(there, 1)
    begun_s, ending = time.monotonic(), serve.Ending()
    motion = plant.Driver(plant.RealPlant(driver), DESK_ARM.joint_names, begun_s)
    core = serve.begin(DESK_ARM, motion)
    far = (HOME[0] + 0.3, *HOME[1:])
    here.send(Kind.CHUNK, 0.0, pack_chunk(Chunk(1, 0.0, (0.1, 1.5), (far, far))))

    def live():
        while time.monotonic() < begun_s + 1.0:
            here.send(Kind.ALIVE, time.monotonic() - begun_s)
            time.sleep(0.02)
        arm.silent = True
        time.sleep(0.5)
        ending.code = 0

    threading.Thread(target=live, daemon=True).start()
    assert serve.serve(core, motion, there, ending) == 0
    steps = [b[0] - a[0] for a, b in zip(arm.targets, arm.targets[1:], strict=False)]
    assert max(steps) <= DESK_ARM.limits.joints.velocity[0] * DESK_ARM.period_s + 1e-9
    assert arm.targets[-1][0] == pytest.approx(0.3, abs=0.01)
    assert len(arm.targets) < 60, "it was silent for the last half second"
    here.close()
    there.close()
