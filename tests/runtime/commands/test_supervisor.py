"""A supervised command ends at a signal whatever it does, and what it had not finished is gone."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import ctypes, os, signal, sys, time
from pathlib import Path
from dvgwm.runtime.commands.supervisor import supervise
from dvgwm.runtime.files import unfinished, whole_directory

def hung():
    with whole_directory(Path("result"), "marker", "result") as folder:
        (folder / "half").write_text("half")
        sys.audit("dvgwm.engine", "preview.onnx")
        print("begun", flush=True)
        {body}
    return 0

supervise(hung, "nothing was kept")
"""
# A lock that is taken twice, by a call that keeps the interpreter's own: no handler in Python can run.
DEAF = "libc, lock = ctypes.PyDLL(None), bytes(64); libc.pthread_mutex_lock(lock); libc.pthread_mutex_lock(lock)"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGQUIT: 131}


def started(folder, body, ignored=()):
    def prepare():
        for number in CODES:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=prepare,
    )  # fmt: skip
    assert child.stdout.readline() == "begun\n"
    return child


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize(
    "body",
    [DEAF, "time.sleep(60)", "while True:\n            try: time.sleep(60)\n            except BaseException: pass"],
)
def test_what_hangs_ends_at_a_signal_and_leaves_nothing(tmp_path, number, body):
    child = started(tmp_path, body)
    told_at = time.monotonic()
    child.send_signal(number)
    _, stderr = child.communicate(timeout=30)
    assert time.monotonic() - told_at < 10  # 2 s on a machine that has nothing else to do
    assert child.returncode == CODES[number]
    assert stderr.splitlines()[0].startswith(f"E{CODES[number]} ")
    assert len(stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_crash_names_the_engine_that_ran_and_leaves_nothing(tmp_path):
    child = started(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)")
    _, stderr = child.communicate(timeout=30)
    assert child.returncode == 31
    assert stderr.startswith(
        "E31 ENGINE_LOST the process was ended by SIGSEGV while preview.onnx ran; nothing was kept"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_ends_by_itself_keeps_its_code_and_its_result(tmp_path):
    child = started(tmp_path, "pass")
    _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr) == (0, "")
    assert (tmp_path / "result" / "half").read_text() == "half"


def test_a_signal_that_was_ignored_before_stays_so_as_under_nohup(tmp_path):
    child = started(tmp_path, "time.sleep(1.0)", ignored=[signal.SIGHUP])
    child.send_signal(signal.SIGHUP)
    child.communicate(timeout=30)
    assert child.returncode == 0


def test_the_command_dies_with_its_supervisor(tmp_path):
    child = started(tmp_path, "print(os.getpid(), flush=True); time.sleep(60)")
    command = int(child.stdout.readline())
    child.kill()
    child.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and os.path.exists(f"/proc/{command}"):
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{command}")


def test_streams_that_are_closed_are_no_files(tmp_path):
    line = f"'{sys.executable}' -c 'from dvgwm.runtime.cli import main; main()' doctor >&- 2>&-"
    assert subprocess.run(["sh", "-c", line], cwd=tmp_path, timeout=60, check=False).returncode == 0
