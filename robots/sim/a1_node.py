"""The simulated A1 on the topics of the vendor's driver and tracker: what --live is tried against without an arm.

    python -m dvgwm.robots.sim.a1_node --task fruit_in_bowl --seed 3

Its cameras are topics too. Time is real; where physics or a picture takes too long, it goes more slowly.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from dvgwm.runtime.errors import DvgwmError

from .. import galaxea_a1_messages, galaxea_a1_ros, ros
from ..a1_model import JOINT_NAMES
from ..process import OTHERS, first_in_line
from ..spec import SimulationOptions
from .cameras import CAMERAS
from .driver import MujocoRobot
from .tasks import TASKS

PERIOD_S, STATUS_S, FRAME_S = 0.01, 0.05, 0.05
BEHIND_S = 0.05
STATUS = "signal_arm/status_stamped"
IMAGE = "/{camera}/image_raw"


class A1Node:
    """A simulated arm behind the topics of a real one; ``commands`` counts the joint targets that came."""

    def __init__(self, robot: MujocoRobot, master: str) -> None:
        self.robot, self.commands, self.settings = robot, 0, galaxea_a1_ros.A1Settings()
        robot.images()  # what draws is made now, and not while somebody waits for a joint state
        self._rospy = ros.open_node(*ros.master(master))
        messages = ros.library("sensor_msgs.msg")
        self._state, self._image = messages.JointState, messages.Image
        self._status, gripper = galaxea_a1_messages.status_messages(STATUS), galaxea_a1_messages.gripper_message()
        self._topics: dict[str, Any] = {}
        self._joints = robot.positions()
        self._arm, self._opening = self._joints[:6], self._joints[6]
        self._status_s = self._frame_s = 0.0
        for camera in CAMERAS:
            self._publisher(IMAGE.format(camera=camera), self._image)
        options = {"queue_size": 1, "tcp_nodelay": True}
        self._rospy.Subscriber(self.settings.joint_targets, self._state, self._on_joints, **options)
        self._rospy.Subscriber(self.settings.gripper_targets, gripper, self._on_gripper, **options)

    def run(self, until: Callable[[], bool]) -> None:
        """Let time pass until ``until()``."""
        due_s = time.monotonic()
        while not until():
            self.tick()
            due_s = max(due_s + PERIOD_S, time.monotonic() - BEHIND_S)
            time.sleep(max(0.0, due_s - time.monotonic()))

    def tick(self) -> None:
        """Let a period pass, and tell what is due."""
        targets = (*self._arm, self._opening)
        self.robot.send_action({f"{name}.pos": q for name, q in zip(JOINT_NAMES, targets, strict=True)})
        self.robot.advance(PERIOD_S)
        now_s = time.monotonic()
        self.tell_joints()
        if now_s - self._status_s >= STATUS_S:
            self._status_s = now_s
            self.tell_status((0,) * 6)
        if now_s - self._frame_s >= FRAME_S:
            self._frame_s = now_s
            self.tell_frames()

    def tell_joints(self) -> None:
        """Publish joints and gripper."""
        before, self._joints = self._joints, self.robot.positions()
        speeds = [(to - at) / PERIOD_S for to, at in zip(self._joints[:6], before[:6], strict=True)]
        joints = self._state(name=list(galaxea_a1_messages.JOINTS), position=list(self._joints[:6]), velocity=speeds)
        stroke = self._state(name=["gripper"], position=[self._joints[6] * self.settings.stroke_max_mm])
        self.publish(self.settings.joint_states, joints)
        self.publish(self.settings.gripper_state, stroke)

    def tell_status(self, codes: Sequence[int]) -> None:
        """Publish the joints' error codes."""
        error = self._status["signal_arm/motor_error"]
        status = self._status[STATUS]()
        status.data.name = list(galaxea_a1_messages.JOINTS)
        status.data.motor_errors = [error(error_code=code) for code in codes]
        self.publish(self.settings.status, status)

    def tell_frames(self) -> None:
        """Publish what those cameras see that somebody looks through."""
        watched = [name for name in CAMERAS if self._topics[IMAGE.format(camera=name)].get_num_connections()]
        for camera, pixels in self.robot.images(watched).items():
            height, width = pixels.shape[:2]
            image = self._image(height=height, width=width, encoding="rgb8", step=3 * width, data=pixels.tobytes())
            self.publish(IMAGE.format(camera=camera), image)

    def publish(self, topic: str, message: Any) -> None:
        """Publish, stamped with the time now."""
        message.header.stamp = self._rospy.Time.now()
        self.send(topic, message)

    def send(self, topic: str, message: Any) -> None:
        """Publish on a topic."""
        self._publisher(topic, type(message)).publish(message)

    def _publisher(self, topic: str, kind: Any) -> Any:
        if topic not in self._topics:
            self._topics[topic] = self._rospy.Publisher(topic, kind, queue_size=1, tcp_nodelay=True)
        return self._topics[topic]

    def _on_joints(self, heard: Any) -> None:
        places = dict(zip(heard.name, heard.position, strict=False))
        self._arm = tuple(places[name] for name in galaxea_a1_messages.JOINTS)
        self.commands += 1

    def _on_gripper(self, heard: Any) -> None:
        self._opening = heard.gripper_stroke / self.settings.stroke_max_mm


def main(make: Callable[[MujocoRobot, str], A1Node] = A1Node) -> int:
    """Run the node until it is told to end; its last line of standard output is JSON."""
    parser = argparse.ArgumentParser(prog="python -m dvgwm.robots.sim.a1_node", description=__doc__.splitlines()[0])
    parser.add_argument("--master", default="localhost:11311", help="ROS master (default: localhost:11311)")
    parser.add_argument("--task", default=next(iter(TASKS)), help=f"one of {', '.join(TASKS)}, or TASK:OBJECT")
    parser.add_argument("--seed", type=int, default=0, help="seed of the layout")
    parser.add_argument("--height", type=int, default=128, help="of the cameras' images (default: 128)")
    parser.add_argument("--width", type=int, default=192, help="of the cameras' images (default: 192)")
    said = parser.parse_args()
    ended: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        ended.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    first_in_line(OTHERS)  # an arm has a computer of its own
    try:
        robot = MujocoRobot(SimulationOptions(said.task, said.seed, said.height, said.width))
        node = make(robot, said.master)
    except DvgwmError as error:
        sys.stderr.write(f"{error.line}\n")
        return error.exit_code
    _say(event="ready", instruction=robot.instruction, camera=IMAGE.format(camera="scene"))
    node.run(lambda: bool(ended))
    _say(event="ended", solved=robot.solved(), moved=robot.moved(), commands=node.commands)
    return 0


def _say(**facts: Any) -> None:
    sys.stdout.write(f"{json.dumps(facts)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
