"""The Robotiq gripper's line: whoever asks gets the answer to what was asked."""

import socket
import threading
import time
from contextlib import suppress

import pytest

from dvgwm.robots.robotiq import ANSWER_S, CLOSED, Robotiq

ANSWERS = {"GET POS": "POS 51", "GET FLT": "FLT 0", "GET STA": "STA 3"}


class Gripper:
    """A gripper that takes its time to answer each question; the ``late`` is answered after its asker has given up."""

    def __init__(self, answer_s, late=None):
        self.answer_s, self.late = answer_s, late
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        line, _ = self.server.accept()
        with line, line.makefile() as asked, suppress(OSError):
            for each in map(str.strip, asked):
                late, self.late = each == self.late, None if each == self.late else self.late
                time.sleep(ANSWER_S + 0.1 if late else self.answer_s)
                line.sendall(f"{ANSWERS.get(each, 'ack')}\n".encode())


@pytest.fixture
def looked_at():
    """Start a gripper and what looks at it; both end with the test."""
    made = []

    def start(*said):
        there = Gripper(*said)
        made.append((there, Robotiq("127.0.0.1", there.port)))
        made[-1][1].start()
        return made[-1]

    yield start
    for there, gripper in made:
        gripper.close()
        there.server.close()


def looks(gripper, count):
    """Wait until it was looked at so often again; return what was seen."""
    seen, before_s = set(), gripper.at_s
    while count:
        time.sleep(0.002)
        if gripper.at_s != before_s:
            seen.add((round(CLOSED * (1 - gripper.opening)), gripper.fault))
            before_s, count = gripper.at_s, count - 1
    return seen


def test_two_that_ask_get_each_its_own_answer(looked_at):
    """Arming asks whether the gripper is active, while it is looked at: a mixed-up answer would be a gripper gone silent."""
    _, gripper = looked_at(0.02)
    arming = threading.Thread(target=lambda: [gripper.activate() for _ in range(20)])
    arming.start()
    assert looks(gripper, 10) == {(51, 0)}
    arming.join(20)
    assert not arming.is_alive()


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next(looked_at):
    there, gripper = looked_at(0.001)
    looks(gripper, 1)
    there.late = "GET POS"
    assert looks(gripper, 5) == {(51, 0)}
    assert there.late is None
