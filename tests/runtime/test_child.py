"""A process of ours: what it writes never waits, its end is kept, working directory and terminal do not reach it."""

import os
import time

import pytest

from dvgwm.runtime import child
from dvgwm.runtime.child import Child
from dvgwm.runtime.errors import CameraLostError, ConfigError, RobotCommunicationError

HEAD = (
    "import ctypes, faulthandler, os, subprocess, sys, threading, time, warnings\nfrom dvgwm.runtime.child import *\n"
)
TALKS = {
    "print": "print('x' * 10_000)",
    "standard error": "print('x' * 10_000, file=sys.stderr)",
    "C": "ctypes.CDLL(None).write(2, b'x' * 10_000, 10_000)",
    "C that keeps the interpreter's lock": "ctypes.PyDLL(None).write(2, b'x' * 10_000, 10_000)",
    "a warning": "warnings.warn('x' * 10_000 + str(time.monotonic()))",
    "the interpreter": "[faulthandler.dump_traceback(all_threads=True) for _ in range(100)]",
    "a thread that fails": "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()",
    "a process of its own": "subprocess.run(['head', '-c', '10000', '/dev/zero'])",
}


@pytest.fixture
def start(install):
    """Run the text of a program as a child; all end with the test."""
    begun = []

    def begin(text, order=None, **options):
        name = f"program_{len(begun)}"
        install(name, f"{HEAD}def main():\n" + "".join(f"    {line}\n" for line in text.splitlines()), {})
        begun.append(Child(name, order or {}, [], **options))
        return begun[-1]

    yield begin
    for each in begun:
        each.process.kill()
        each.process.wait()
        each.close()


@pytest.mark.parametrize("talk", TALKS)
def test_nothing_that_is_written_waits_for_a_reader(start, talk):
    """Two hundred times what a pipe holds, where one call is 10 kB; nobody reads."""
    calls = 30 if "process" in talk else 1300
    text = f"for _ in range({calls}):\n    {TALKS[talk]}\n    cut_log()\nend_process(7, None)"
    begun_s = time.monotonic()
    program = start(text)
    assert program.process.wait(60) == 7, program.said()
    assert time.monotonic() - begun_s < 60
    assert os.fstat(program._log).st_size <= child.MOST_BYTES + 20_000
    assert program.said()


def test_the_error_is_found_whatever_is_written_beside_it(start):
    text = """
from dvgwm.runtime.errors import RobotCommunicationError
def talk():
    while True:
        os.write(2, b'half a line')
        os.write(1, b'E2 NO_ERROR_OF_OURS in a line that goes on' * 10)
        os.write(1, b'\\nE2 NO_ERROR_OF_OURS in a line of its own\\n')
[threading.Thread(target=talk, daemon=True).start() for _ in range(3)]
time.sleep(0.1)
cut_log()
os.write(2, b'no end of line')
os.write(2, b'\\nE2 NO_ERROR_OF_OURS in a line of its own\\n')
end_process(40, RobotCommunicationError('ROBOT_LOCKED', 'another runtime has the arm'))
"""
    program = start(text)
    assert program.process.wait(30) == 40
    error = program.error((ConfigError, RobotCommunicationError))
    assert (type(error), error.log_code, str(error)) == (
        RobotCommunicationError,
        "ROBOT_LOCKED",
        "another runtime has the arm",
    )
    assert program.error((CameraLostError,)) is None


def test_a_librarys_line_is_no_error_whatever_it_looks_like(start):
    program = start("os.write(2, b'\\nE40 ROBOT_LOCKED said by a library\\n')\nend_process(40)")
    assert program.process.wait(30) == 40
    assert program.said() == "E40 ROBOT_LOCKED said by a library"
    assert program.error((RobotCommunicationError,)) is None


def test_a_log_that_is_none_of_ours_is_not_cut(start, tmp_path):
    own = tmp_path / "own.txt"
    program = start(
        f"os.dup2(os.open({str(own)!r}, os.O_CREAT | os.O_RDWR), 2)\nos.write(2, b'x' * 200_000)\ncut_log()"
    )
    program.process.wait(30)
    assert own.stat().st_size == 200_000


@pytest.mark.parametrize("path", [None, "", ":", "absent:"], ids=repr)
def test_modules_of_the_working_directory_are_not_imported(start, tmp_path, monkeypatch, path):
    """A `random.py` of one's own, and an empty entry on PYTHONPATH, which means the working directory too."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "random.py").write_text("raise SystemExit('the working directory is imported')")
    (folder / "dvgwm.py").write_text("raise SystemExit('the working directory is imported')")
    monkeypatch.chdir(folder)
    program = start("")
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}{path}")
    program = start(
        "import random\nprint(random.__file__, [p for p in sys.path if p in ('', os.getcwd())], flush=True)"
    )
    assert program.process.wait(30) == 0, program.said()
    assert program.said().endswith("random.py []")


def test_it_has_a_session_of_its_own_and_no_terminal(start):
    program = start("print(os.getsid(0) == os.getpid(), sys.stdin.read() == '', flush=True)")
    assert program.process.wait(30) == 0
    assert program.said() == "True True"
