"""The Galaxea A1 over ROS 1: joint states in, joint and gripper targets out, through the vendor's own driver and tracker.

Topics are those of the vendor's A1 SDK (September 2024). The tracker of its ``jointTrackerdemo.launch`` takes joint targets;
inverse kinematics are ours.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

from dvgwm.runtime.arrivals import Arrivals
from dvgwm.runtime.errors import ConfigError, RobotCommunicationError

from . import galaxea_a1_messages as messages
from . import ros
from .a1_model import JOINT_NAMES
from .settings import settings
from .spec import DriveOptions, JointState

MOVING_RAD_S = 0.05
WIDE = 1.05
"""A gripper that is open by more of its stroke has another stroke."""
RATE_HZ = 20.0
"""A driver that tells its joints less often is refused."""
RATED, RATED_S = 20, 1.5
"""So many states are counted to know how often they come, or for so long."""
GRIPPER_S, STATUS_S = 0.5, 1.0
"""How old the gripper's state and the arm's status may be."""
LOOK_S = 0.2
"""How often the ROS master is asked who else publishes."""


@dataclass(frozen=True, slots=True)
class A1Settings:
    """The entries of a settings file: topics, and the gripper's stroke, 60 mm by the vendor's notes, 103.8 measured on a G2."""

    joint_states: str = "/joint_states_host"
    gripper_state: str = "/gripper_stroke_host"
    status: str = "/arm_status_host"
    joint_targets: str = "/arm_joint_target_position"
    gripper_targets: str = "/gripper_position_control_host"
    stroke_max_mm: float = 60.0

    def __post_init__(self) -> None:
        if not (isfinite(self.stroke_max_mm) and self.stroke_max_mm > 0.0):
            raise ConfigError("ARM_SETTINGS", f"wanted a positive stroke_max_mm, got {self.stroke_max_mm}")


class GalaxeaA1:
    """A real A1, by its ROS master's address; implements `dvgwm.robots.spec.RealRobot`."""

    name = "galaxea_a1"

    def __init__(self, options: DriveOptions) -> None:
        self.settings = settings(options, A1Settings)
        self._master = ros.master(options.address)
        self.id = "{}:{}".format(*self._master)
        self._lock = threading.Lock()
        self._joints: tuple[float, ...] = ()
        self._speeds: tuple[float, ...] = ()
        self._faults: dict[str, int] = {}
        self._gripper = 0.0
        self._joints_s = self._gripper_s = self._status_s = 0.0
        self._arrivals, self._count, self._rate_hz = Arrivals(), 0, 0.0
        self._senders: dict[str, str] = {}
        self._here = False
        self._untrusted: str | None = None
        self._ended = threading.Event()
        self._rospy: Any = None

    def identities(self) -> Sequence[str]:
        """Return the topics that command this arm, each with its ROS master; raises `RobotCommunicationError` without one."""
        master, said = ros.identity(*self._master), self.settings
        return [f"{master} topic {named(topic)}" for topic in (said.joint_targets, said.gripper_targets)]

    def connect(self, calibrate: bool = True) -> None:
        """Open the node, hear every topic once, and see that somebody takes targets; nothing moves.

        Raises `ConfigError` without ROS, or for messages that are others; `RobotCommunicationError` for whoever is silent.
        """
        rospy, said = ros.open_node(*self._master), self.settings
        self._rospy = rospy
        state = ros.library("sensor_msgs.msg").JointState
        headers = [
            ros.first(rospy, topic, (messages.JOINT_STATE_MD5,)) for topic in (said.joint_states, said.gripper_state)
        ]
        self._here = ros.is_here(*self._master, headers[0]["callerid"])
        kind = ros.first(rospy, said.status, (messages.STATUS_MD5,))["type"]
        status, gripper = messages.status_messages(kind)[kind], messages.gripper_message()
        self._state, self._stroke = state, gripper
        rospy.Subscriber(said.joint_states, state, self._on_joints, queue_size=1, tcp_nodelay=True)
        rospy.Subscriber(said.gripper_state, state, self._on_gripper, queue_size=1, tcp_nodelay=True)
        rospy.Subscriber(said.status, status, self._on_status, queue_size=1, tcp_nodelay=True)
        self._wait(lambda: self._joints_s and self._gripper_s and self._status_s, "told its state")
        if self._gripper > WIDE:
            wide_mm, most_mm = self._gripper * said.stroke_max_mm, said.stroke_max_mm
            raise ConfigError("ARM_STROKE", f"the gripper is {wide_mm:.1f} mm open, of {most_mm:g}; set stroke_max_mm")
        for topic in (said.joint_targets, said.gripper_targets):
            self._wait(partial(ros.subscribers, *self._master, named(topic)), f"listens on {topic}")
        self._look()
        threading.Thread(target=self._watch, daemon=True).start()
        begun, begun_s = self._count, time.monotonic()
        while self._count < begun + RATED and time.monotonic() < begun_s + RATED_S:
            time.sleep(0.002)
        self._rate_hz = (self._count - begun) / (time.monotonic() - begun_s)
        if self._rate_hz < RATE_HZ:
            raise RobotCommunicationError(
                "ARM_RATE",
                f"wanted joint states at {RATE_HZ:g} Hz or more, got {self._rate_hz:.1f}; look at the arm's serial line",
            )

    def about(self) -> str:
        """Return what was found, in words."""
        clock = f"; {self._arrivals.said}" if self._arrivals.said else ""
        return f"ROS master {self.id}, joint states at {self._rate_hz:.0f} Hz{clock}"

    def state(self) -> JointState:
        """Return what the arm last told; raises `RobotCommunicationError` where gripper or status fell silent."""
        now_s = time.monotonic()
        with self._lock:
            for what, since_s, most_s in (
                ("gripper", self._gripper_s, GRIPPER_S),
                ("status", self._status_s, STATUS_S),
            ):
                if now_s - since_s > most_s:
                    raise RobotCommunicationError(
                        "ARM_TOPIC", f"the {what} has told nothing for {now_s - since_s:.2f} s"
                    )
            return JointState((*self._joints, self._gripper), self._joints_s, self._stop(), self._untrusted)

    def engage(self) -> None:
        """Publish targets from now on; raises `RobotCommunicationError` where somebody else does, or nobody listens."""
        rospy, said, options = self._rospy, self.settings, {"queue_size": 1, "tcp_nodelay": True}
        self._targets = rospy.Publisher(said.joint_targets, self._state, **options)
        self._strokes = rospy.Publisher(said.gripper_targets, self._stroke, **options)
        self._wait(self._targets.get_num_connections, f"listens on {said.joint_targets}")
        self._wait(self._strokes.get_num_connections, f"listens on {said.gripper_targets}")
        self._look()

    def get_observation(self) -> dict[str, Any]:
        """Return the joint positions (``joint_1.pos`` ..)."""
        return {f"{name}.pos": value for name, value in zip(JOINT_NAMES, self.state().positions, strict=True)}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Publish joint targets (radians) and the gripper's (0..1); raises `RobotCommunicationError` where nobody listens."""
        for topic in (self._targets, self._strokes):
            if not topic.get_num_connections():
                raise RobotCommunicationError("ARM_TRACKER", f"nobody listens on {topic.name} any more")
        *joints, opening = (float(action[f"{name}.pos"]) for name in JOINT_NAMES)
        target, stroke = self._state(name=list(messages.JOINTS), position=joints), self._stroke()
        target.header.stamp = stroke.header.stamp = self._rospy.Time.now()
        stroke.gripper_stroke = opening * self.settings.stroke_max_mm
        self._targets.publish(target)
        self._strokes.publish(stroke)
        return action

    def disconnect(self) -> None:
        """Leave the master; the arm holds its last target."""
        self._ended.set()
        if self._rospy is not None:
            self._rospy.signal_shutdown("done")

    def _wait(self, done: Any, what: str) -> None:
        end_s = time.monotonic() + ros.FIRST_S
        while not done():
            if time.monotonic() > end_s:
                if self._untrusted is not None:
                    raise RobotCommunicationError(
                        "ROBOT_UNTRUSTED", f"the robot cannot be relied on: {self._untrusted}"
                    )
                raise RobotCommunicationError(
                    "ARM_CONNECT",
                    f"nobody {what} within {ros.FIRST_S:g} s; start single_arm_node.launch and jointTrackerdemo.launch",
                )
            time.sleep(0.005)

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S):
            with suppress(RobotCommunicationError):  # a master may end, its nodes go on
                self._look()

    def _look(self) -> None:
        """Look who else commands the arm, or tells its state: anybody who does makes it one that cannot be relied on."""
        registered, own, said = ros.publishers(*self._master), self._rospy.get_node_uri(), self.settings
        for topic in (said.joint_targets, said.gripper_targets):
            if others := self._alive(registered, topic, own):
                self._doubt(f"{', '.join(others)} commands the arm too, on {topic}; end it")
        for topic in (said.joint_states, said.gripper_state, said.status):
            if len(registered.get(named(topic), ())) > 1 and len(tellers := self._alive(registered, topic)) > 1:
                self._doubt(f"{', '.join(tellers)} tell {topic}; end all but the robot's driver")

    def _alive(self, registered: Mapping[str, frozenset[str]], topic: str, own: str = "") -> Sequence[str]:
        """Return the nodes that publish a topic, but for the one at the address ``own``, without those that have ended."""
        nodes = ros.publishing(*self._master, registered.get(named(topic), frozenset()), named(topic))
        return [node for address, node in nodes.items() if address != own]

    def _doubt(self, why: str | None) -> bool:
        """Return whether there is a reason not to rely on the arm; the first one stays."""
        if why is not None and self._untrusted is None:
            self._untrusted = why
        return why is not None

    def _is_others(self, topic: str, heard: Any) -> bool:
        """Return whether a message is not of the node that told the topic first."""
        sender = ros.sender(heard)
        first = self._senders.setdefault(topic, sender)
        return sender != first and self._doubt(f"{first} and {sender} tell {topic}; end all but the robot's driver")

    def _on_joints(self, heard: Any) -> None:
        arrived_s, wall_s = time.monotonic(), time.time()
        topic = self.settings.joint_states
        if self._is_others(topic, heard) or self._doubt(messages.unsound_joints(heard)):
            return
        places, speeds = (
            dict(zip(heard.name, heard.position, strict=True)),
            dict(zip(heard.name, heard.velocity, strict=True)),
        )
        made_s = self._arrivals.made_s(heard.header.stamp.to_sec(), arrived_s, wall_s if self._here else None)
        if self._arrivals.fault is not None:
            self._doubt(f"{topic}: {self._arrivals.fault}")
        if made_s is None:
            return  # what is not heard grows old, and is told then
        with self._lock:
            self._joints = tuple(float(places[name]) for name in messages.JOINTS)
            self._speeds = tuple(float(speeds[name]) for name in messages.JOINTS)
            self._joints_s, self._count = made_s, self._count + 1

    def _on_gripper(self, heard: Any) -> None:
        if self._is_others(self.settings.gripper_state, heard) or self._doubt(messages.unsound_gripper(heard)):
            return
        with self._lock:
            self._gripper = float(heard.position[0]) / self.settings.stroke_max_mm
            self._gripper_s = time.monotonic()

    def _on_status(self, heard: Any) -> None:
        if self._is_others(self.settings.status, heard) or self._doubt(messages.unsound_status(heard.data)):
            return
        with self._lock:
            self._faults = {
                name: error.error_code for name, error in zip(heard.data.name, heard.data.motor_errors, strict=True)
            }
            self._status_s = time.monotonic()

    def _stop(self) -> str | None:
        """Return why the arm has stopped, None while it is well; bit 6 alone, at rest, is nothing."""
        moving = any(abs(speed) > MOVING_RAD_S for speed in self._speeds)
        return messages.stop(self._faults, moving)


def named(topic: str) -> str:
    """Return the name of a topic as a ROS master writes it."""
    return f"/{topic.strip('/')}"
