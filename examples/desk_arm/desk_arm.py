"""A driver of one's own: the desk arm tells its joints in lines of JSON over TCP, and takes targets the same way."""

import json
import socket
import threading
import time
from dataclasses import replace

from dvgwm.robots.a1_model import A1
from dvgwm.robots.spec import JointState, RobotSpec
from dvgwm.runtime.arrivals import Arrivals
from dvgwm.runtime.errors import RobotCommunicationError

DESK_ARM = replace(A1, name="desk_arm")  # its joints, limits and kinematics; yours has its own ArmModel


class DeskArm:
    """The desk arm at HOST:PORT; implements `dvgwm.robots.spec.RealRobot`."""

    name = "desk_arm"

    def __init__(self, options):
        self.id = options.address
        self._arrivals, self._seen, self._line = Arrivals(), None, None

    def connect(self, calibrate=True):
        host, _, port = self.id.rpartition(":")
        try:
            self._line = socket.create_connection((host, int(port)), 2.0)
        except (OSError, ValueError) as error:
            raise RobotCommunicationError("ARM_CONNECT", f"no desk arm at {self.id}: {error}; switch it on") from error
        threading.Thread(target=self._listen, daemon=True).start()
        end_s = time.monotonic() + 2.0
        while self._seen is None:
            if time.monotonic() > end_s:
                raise RobotCommunicationError("ARM_CONNECT", f"the desk arm at {self.id} says nothing; restart it")
            time.sleep(0.01)

    def about(self):
        return f"desk arm {self.id}"

    def state(self):
        return self._seen  # the newest, never waited for: motion sees by its time how old it is

    def engage(self):
        pass  # it takes targets from whoever is connected; what switches a drive on belongs here

    def get_observation(self):
        return {f"{name}.pos": q for name, q in zip(DESK_ARM.joint_names, self._seen.positions, strict=True)}

    def send_action(self, action):
        self._line.sendall(json.dumps([action[f"{name}.pos"] for name in DESK_ARM.joint_names]).encode() + b"\n")
        return action

    def disconnect(self):
        if self._line is not None:
            self._line.close()

    def _listen(self):
        for line in self._line.makefile():
            told = json.loads(line)  # {"t": its own clock, "q": seven positions, "stop": a text or null}
            made_s = self._arrivals.made_s(told["t"], time.monotonic())
            if made_s is not None:
                self._seen = JointState(tuple(told["q"]), made_s, told["stop"])


ROBOT = RobotSpec(DESK_ARM, drive=DeskArm)
