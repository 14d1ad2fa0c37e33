"""The Robotiq gripper's line: whoever asks gets the answer to what was asked."""

import socket
import threading
import time
from contextlib import suppress

import pytest

from dvgwm.robots.robotiq import ANSWER_S, CLOSED, Robotiq
from dvgwm.runtime.errors import RobotCommunicationError

ANSWERS = {"GET POS": "POS 51\n", "GET FLT": "FLT 0\n", "GET STA": "STA 3\n"}


class Gripper:
    """A gripper that takes its time to answer each question, and answers ``once`` otherwise; ``heard`` has the questions."""

    def __init__(self, answer_s):
        self.answer_s, self.once, self.heard = answer_s, {}, []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        line, _ = self.server.accept()
        with line, line.makefile() as asked, suppress(OSError):
            for each in map(str.strip, asked):
                self.heard.append(each)
                seconds, answer = self.once.pop(each, (self.answer_s, ANSWERS.get(each, "ack")))
                time.sleep(seconds)
                line.sendall(answer.encode())


@pytest.fixture
def looked_at():
    """Start a gripper and what looks at it; both end with the test."""
    made = []

    def start(answer_s=0.001):
        there = Gripper(answer_s)
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
    there, gripper = looked_at()
    looks(gripper, 1)
    there.once["GET POS"] = ANSWER_S + 0.1, ANSWERS["GET POS"]
    assert looks(gripper, 5) == {(51, 0)}
    assert not there.once


def test_of_answers_that_come_together_the_newest_is_taken(looked_at):
    there, gripper = looked_at()
    looks(gripper, 1)
    there.once["GET POS"] = 0.0, "POS 9\nPOS 51\n"
    assert looks(gripper, 3) == {(51, 0)}
    assert not there.once


def test_it_is_told_again_until_it_says_that_it_heard(looked_at):
    there, gripper = looked_at()
    there.once["SET POS 0"] = 0.0, "FLT 0\n"
    gripper.move(1.0)
    while there.heard.count("SET POS 0") < 2:
        time.sleep(0.002)
    looks(gripper, 3)
    assert there.heard.count("SET POS 0") == 2


def test_one_that_hangs_up_is_told():
    def answer_nothing(server):
        line, _ = server.accept()
        with line:
            line.recv(1024)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_nothing, args=(server,), daemon=True).start()
        with pytest.raises(RobotCommunicationError, match="it hung up") as caught:
            Robotiq("127.0.0.1", server.getsockname()[1])
    assert caught.value.log_code == "GRIPPER_CONNECT"
