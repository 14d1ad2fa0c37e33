"""A question wants an answer of its own: what was typed before it is none."""

import os
import pty
import select
import sys
import time

import pytest

CODE = """
import sys, time
from rich.console import Console
from dvgwm.runtime.display.asking import ask
console = Console(stderr=True)
print("begun", flush=True)
time.sleep(0.8)
for question, answers in (("Type arm to let it move, no to end:", ("arm", "no")), ("Play this?", ("yes", "another", "no"))):
    print("got", ask(console, question, answers), flush=True)
"""
BEFORE = {
    "the answer": "arm\n",
    "the answer and the next": "arm\nyes\n",
    "a line that is pasted": "arm\nyes\nyes\nyes\n",
    "half of the answer": "ar",
    "nothing": "",
    "something else": "ls\n\n\n",
}


def at_a_terminal(before, after):
    """Return what a person at a terminal gets who types ``before`` the first question, and each of ``after`` at one."""
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, "-c", CODE])
    shown, asked, end_s = b"", 0, time.monotonic() + 30
    typed = False
    while time.monotonic() < end_s:
        if not select.select([terminal], [], [], 0.5)[0]:
            if shown.count(b":") + shown.count(b"?") > asked and not after[asked:]:
                break  # it waits for an answer that nobody gives
            continue
        try:
            shown += os.read(terminal, 1 << 16)
        except OSError:
            break
        if b"begun" in shown and not typed:
            os.write(terminal, before.encode())
            typed = True
        if shown.count(b"end: ") + shown.count(b"this? ") > asked and after[asked:]:
            time.sleep(0.2)
            os.write(terminal, after[asked].encode())
            asked += 1
    os.kill(process, 9)
    os.waitpid(process, 0)
    os.close(terminal)
    return [line.split()[1] for line in shown.decode().splitlines() if line.startswith("got ")]


@pytest.mark.few(3)
@pytest.mark.parametrize("before", BEFORE)
def test_what_was_typed_before_a_question_is_no_answer(before):
    assert at_a_terminal(BEFORE[before], []) == []


@pytest.mark.few(3)
@pytest.mark.parametrize("before", BEFORE)
def test_what_is_typed_at_it_is(before):
    assert at_a_terminal(BEFORE[before], ["no\n", "yes\n"]) == ["no", "yes"]


def test_what_is_typed_behind_one_answer_is_none_to_the_next():
    assert at_a_terminal("", ["arm\nyes\n"]) == ["arm"]


def test_what_is_typed_behind_a_wrong_answer_is_none():
    assert at_a_terminal("", ["what\narm\n"]) == []
