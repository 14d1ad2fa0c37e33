"""A UR controller and a Robotiq gripper on loopback, by their protocols: what the real ur-rtde talks to.

    python ur_counterpart.py 127.0.3.7

RTDE on 30004 (states out, commands in), the dashboard on 29999, programs on 30003, the gripper on 63352. A program that is
sent is not run: what ur-rtde's own does with its registers is done here. Faults come as lines of JSON on standard input.
"""

import json
import os
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from math import inf

from dvgwm.robots.process import PRIORITY, first_in_line

HOST = sys.argv[1]
STATES = {
    "timestamp": "d",
    "actual_q": "6d",
    "robot_mode": "i",
    "safety_mode": "i",
    "safety_status_bits": "I",
    "robot_status_bits": "I",
    "runtime_state": "I",
}
TYPES = {
    "d": b"DOUBLE",
    "6d": b"VECTOR6D",
    "i": b"INT32",
    "I": b"UINT32",
    "Q": b"UINT64",
    "6i": b"VECTOR6INT32",
    "3d": b"VECTOR3D",
}
VECTORS = ("target_", "actual_", "joint_", "ft_raw", "payload_inertia", "external_force")
REALTIME = {6, 9, 10, 11, 24, 25, 26, 27, 38, 58}
"""Commands that ur-rtde's program takes without telling that it is done."""
SERVO, WATCHDOG, STOP = 11, 35, 255
SPEED_RAD_S = 3.0
DASHBOARD = {
    "PolyscopeVersion": "URSoftware 5.21.0.0",
    "get serial number": "20237500001",
    "is in remote control": "true",
}


def format_of(name):
    if name in STATES:
        return STATES[name]
    if "int_register" in name:
        return "i"
    if "double_register" in name:
        return "d"
    if "bit_registers" in name:
        return "I"
    if name.endswith(("put_bits",)):
        return "Q"
    if name == "joint_mode":
        return "6i"
    if name in ("actual_tool_accelerometer", "payload_cog"):
        return "3d"
    scalars = (
        "actual_momentum",
        "actual_main_voltage",
        "actual_robot_voltage",
        "actual_robot_current",
        "actual_execution_time",
    )
    return "6d" if name.startswith(VECTORS) and name not in scalars else "d"


class Controller:
    """What the controller knows: where the joints are, what its program was told, and which fault it has."""

    def __init__(self):
        self.lock = threading.RLock()
        self.joints = [0.0, -1.6, 1.6, -1.57, -1.57, 0.0]
        self.target, self.commands, self.fault = None, 0, {}
        self.program, self.ready = False, 0
        self.watched_s, self.heard_s, self.watchdog_stops = None, 0.0, 0
        self.grip, self.grip_wanted, self.active_s = 100, 100, inf

    def values(self, stamp_s):
        stop = self.fault.get("safety_bits", 1)
        return {
            "timestamp": stamp_s,
            "actual_q": list(self.joints),
            "robot_mode": self.fault.get("robot_mode", 7),
            "safety_mode": 1,
            "safety_status_bits": stop,
            "robot_status_bits": 1 | self.program << 1,
            "runtime_state": 2 if self.program else 1,
            "output_int_register_0": self.ready,
        }

    def take(self, values):
        """Take a command as ur-rtde's program would."""
        with self.lock:
            self.heard_s = time.monotonic()
            command = values.get("input_int_register_0", 0)
            if not self.program:
                return
            if command == SERVO:
                self.target = [values[f"input_double_register_{joint}"] for joint in range(6)]
                self.commands += 1
            if command == WATCHDOG:
                self.watched_s = 1.0 / values["input_double_register_0"]
            if command == STOP:
                self.program, self.target = False, None
            self.ready = 1 if command == 0 or command in REALTIME else 2

    def pass_time(self, seconds):
        with self.lock:
            stopped = self.fault.get("safety_bits", 1) != 1 or self.fault.get("robot_mode", 7) != 7
            if self.program and self.watched_s and time.monotonic() - self.heard_s > self.watched_s:
                self.watchdog_stops, self.program, self.target = self.watchdog_stops + 1, False, None
            if stopped:
                self.program, self.target = False, None
            if self.target is not None and not self.fault.get("stuck"):
                most = SPEED_RAD_S * seconds
                self.joints = [q + min(max(w - q, -most), most) for q, w in zip(self.joints, self.target, strict=True)]
            self.grip += max(-5, min(5, self.grip_wanted - self.grip))


robot = Controller()


class Rtde:
    """One client of RTDE: what it listens to, and which registers it writes."""

    def __init__(self, line):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.line, self.names, self.recipes, self.live = line, [], {}, threading.Event()
        self.late, self.last = [], b""

    def serve(self):
        data = b""
        with suppress(OSError):
            while chunk := self.line.recv(1 << 16):
                data += chunk
                while len(data) >= 3 and len(data) >= (size := struct.unpack(">H", data[:2])[0]):
                    kind, body, data = data[2], data[3:size], data[size:]
                    answer = getattr(self, f"on_{kind}")(body)
                    if answer is not None:
                        self.send(kind, answer)
        self.live.clear()

    def send(self, kind, body):
        self.line.sendall(struct.pack(">HB", len(body) + 3, kind) + body)

    def on_86(self, body):
        """The protocol's version."""
        return b"\x01"

    def on_118(self, body):
        """The controller's version."""
        return struct.pack(">4I", 5, 21, 0, 0)

    def on_79(self, body):
        """What is to be told, and how often."""
        (hertz,) = struct.unpack(">d", body[:8])
        self.period_s, self.names = 1.0 / hertz, split(body[8:])
        return b"\x01" + types(self.names)

    def on_73(self, body):
        """Registers that are written together."""
        these = split(body)
        self.recipes[len(self.recipes) + 1] = these
        return bytes([len(self.recipes)]) + types(these)

    def on_83(self, body):
        """Begin to tell, once that is answered."""
        self.send(83, b"\x01")
        self.live.set()
        threading.Thread(target=self.stream, daemon=True).start()

    def on_80(self, body):
        """Tell no more."""
        self.live.clear()
        return b"\x01"

    def on_85(self, body):
        """Registers."""
        these = self.recipes[body[0]]
        values = struct.unpack(">" + "".join(map(format_of, these)), body[1:])
        robot.take(dict(zip(these, values, strict=True)))

    def stream(self):
        with suppress(OSError):
            while self.live.is_set():
                with robot.lock:
                    kind, body = robot.fault.get("joints"), self.told(robot.values(time.monotonic()))
                for each in [body] if kind is None else getattr(self, kind)(body):
                    self.send(85, each)
                self.last = self.last if kind == "duplicated" else body
                time.sleep(self.period_s)

    def told(self, values):
        parts = [b"\x01"]
        for name in self.names:
            kind, value = format_of(name), values.get(name, 0)
            count = int(kind[0]) if kind[0].isdigit() else 1
            parts.append(struct.pack(f">{kind}", *(value if isinstance(value, list) else [value] * count)))
        return b"".join(parts)

    def dropped(self, body):
        return []

    def duplicated(self, body):
        return [self.last]

    def delayed(self, body):
        now_s = time.monotonic()
        self.late.append((now_s + robot.fault["delay_s"], body))
        due = [each for at_s, each in self.late if at_s <= now_s]
        self.late = self.late[len(due) :]
        return due

    def reordered(self, body):
        """The newest of ten first, then the older ones."""
        self.late.append((0.0, body))
        due = [each for _, each in self.late[::-1]] if len(self.late) == 10 else []
        self.late = [] if due else self.late
        return due


def split(body):
    return [name for name in body.decode().strip().split(",") if name]


def types(names):
    return b",".join(TYPES[format_of(name)] for name in names)


def dashboard(line):
    line.sendall(b"Connected: Universal Robots Dashboard Server\n")
    with line.makefile() as asked:
        for each in asked:
            line.sendall(f"{DASHBOARD.get(each.strip(), 'ok')}\n".encode())


def programs(line):
    text = b""
    while chunk := line.recv(1 << 16):
        text += chunk
        if text.rstrip().endswith(b"end"):
            with robot.lock:
                robot.program, robot.ready, robot.watched_s, text = True, 1, None, b""


def gripper(line):
    with line.makefile() as asked:
        for each in asked:
            what, name, *rest = each.split()
            if robot.fault.get("gripper") == "silent":
                continue
            if what == "SET":
                if name == "POS":
                    robot.grip_wanted = int(rest[0])
                if name == "ACT":
                    robot.active_s, robot.grip, robot.grip_wanted = (
                        time.monotonic() + 0.3,
                        0,
                        0,
                    )  # it opens, whatever it held
                line.sendall(b"ack\n")
            else:
                value = {
                    "POS": robot.grip,
                    "STA": 3 if time.monotonic() > robot.active_s else 0,
                    "FLT": robot.fault.get("grip_fault", 0),
                }
                line.sendall(f"{name} {value.get(name, 0)}\n".encode())


def accept(port, handle):
    server = socket.create_server((HOST, port))

    def one(line):
        with suppress(OSError):
            handle(line)

    def loop():
        while True:
            line, _ = server.accept()
            threading.Thread(target=one, args=(line,), daemon=True).start()

    threading.Thread(target=loop, daemon=True).start()


def live():
    while True:
        time.sleep(0.004)
        robot.pass_time(0.004)


sys.setswitchinterval(2e-4)  # a controller has no interpreter whose threads wait for each other
first_in_line(PRIORITY + 5)  # nor does it wait for who talks to it: ur-rtde spins while it waits for an answer
for port, handle in ((30004, lambda line: Rtde(line).serve()), (29999, dashboard), (30003, programs), (63352, gripper)):
    accept(port, handle)
threading.Thread(target=live, daemon=True).start()
print(json.dumps({"event": "ready"}), flush=True)
for order in map(json.loads, sys.stdin):
    if order.pop("ask", False):
        told = {"joints": [*robot.joints, robot.grip], "commands": robot.commands, "program": robot.program}
        print(
            json.dumps(told | {"watchdog_stops": robot.watchdog_stops, "active": time.monotonic() > robot.active_s}),
            flush=True,
        )
    elif order.pop("die", False):
        os._exit(0)
    else:
        with robot.lock:
            robot.joints = order.pop("go", robot.joints)
            robot.fault = order
