"""The simulated A1's node in the hands of a test: faults of a real one, by lines of JSON on standard input."""

import json
import os
import sys
import threading
import time

from dvgwm.robots.sim import a1_node


class FaultyNode(a1_node.A1Node):
    """A node whose messages can be dropped, delayed, sent twice or out of order, its status set and its joints stuck."""

    def __init__(self, robot, master):
        self.fault, self.codes, self.held = {}, None, []
        super().__init__(robot, master)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in sys.stdin:
            order = json.loads(line)
            if order.pop("ask", False):
                facts = {"solved": self.robot.solved(), "commands": self.commands, "time_s": self.robot.time_s}
                a1_node._say(event="told", joints=self.robot.positions(), **facts)
            elif order.pop("die", False):
                os._exit(0)
            else:
                self._arm = tuple(order.pop("go", self._arm))
                self.held, self.fault = [], order

    def tell_status(self, codes):
        if not self.fault.get("mute_status"):
            super().tell_status(self.fault.get("status", self.fault).get("codes", codes))

    def send(self, topic, message):
        if topic == self.settings.status and "status" in self.fault:
            message.data.name = self.fault["status"]["name"]
        for told, name in ((self.settings.joint_states, "states"), (self.settings.gripper_state, "gripper")):
            for field, values in self.fault.get(name, {}).items() if topic == told else ():
                setattr(message, field, values)
        if topic == self.settings.gripper_state and self.fault.get("mute_gripper"):
            return
        kind = self.fault.get("joints") if topic == self.settings.joint_states else None
        for each in [message] if kind is None else getattr(self, kind)(message):
            super().send(topic, each)

    def tell_frames(self):
        if not self.fault.get("mute_frames"):
            super().tell_frames()

    def dropped(self, message):
        return []

    def nan(self, message):
        message.position[2] = float("nan")
        return [message]

    def renamed(self, message):
        message.name = ["a", *message.name[1:]]
        return [message]

    def set_forward(self, message):
        message.header.stamp += type(message.header.stamp - message.header.stamp).from_sec(self.fault["by_s"])
        return [message]

    def duplicated(self, message):
        self.held = self.held or [message]
        return self.held

    def delayed(self, message):
        self.held.append((time.monotonic() + self.fault["delay_s"], message))
        due = [each for due_s, each in self.held if due_s <= time.monotonic()]
        self.held = self.held[len(due) :]
        return due

    def reordered(self, message):
        """The newest of eight first, then the older ones."""
        self.held.append(message)
        due = self.held[::-1] if len(self.held) == 8 else []
        self.held = self.held if not due else []
        return due

    def tick(self):
        if self.fault.get("hang_s"):
            time.sleep(self.fault.pop("hang_s"))
        if self.fault.get("stuck"):
            stuck = self.robot.positions()
            self._arm = stuck[:6]
        super().tick()


if __name__ == "__main__":
    sys.exit(a1_node.main(FaultyNode))
