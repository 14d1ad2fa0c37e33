"""What a person does at the terminal while the arm moves: whatever key it is, the arm brakes as its limits want it."""

import os
import pty
import random
import select
import signal
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from dvgwm.robots.a1_model import SAFETY
from dvgwm.runtime.config.plugins import DEFAULT_BUNDLE, shipped

pytestmark = [pytest.mark.sim, pytest.mark.ort, pytest.mark.slow]
T = 0.02
COMMAND = "from dvgwm.runtime.cli import main; main()"
WATCHED = """
import os, time
from dataclasses import replace
from dvgwm.robots.galaxea_a1 import ROBOT as A1
from dvgwm.robots.sim.driver import MujocoRobot

class Robot(MujocoRobot):
    def send_action(self, action):
        if "COMMANDS" in os.environ:
            with open(os.environ["COMMANDS"], "a") as file:
                file.write(" ".join(map(repr, (time.monotonic(), *action.values()))) + "\\n")
        return super().send_action(action)

ROBOT = replace(A1, arm=replace(A1.arm, name="watched"), simulation=replace(A1.simulation, simulate=Robot))
"""
SHELL = """
import os, signal, sys, time
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    time.sleep(0.2)
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
os.setpgid(job, job)
os.tcsetpgrp(0, job)
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        os._exit(os.waitstatus_to_exitcode(status) % 256)
    time.sleep(1.0)
    os.killpg(job, signal.SIGCONT)
"""
"""What a shell does: a job has a process group of its own, and one that is stopped is brought back after a second."""
KEYS = {
    "Ctrl-\\": (b"\x1c", 131),
    "Ctrl-Z, then fg": (b"\x1a", 42),
    "Ctrl-C": (b"\x03", 130),
    "Ctrl-C twice": (b"\x03\x03", 130),
    "Ctrl-Z and Ctrl-\\": (b"\x1a\x1c", 131),
    "the terminal is closed": (None, 129),
}


def commands(path):
    """Return the commands so far: when each was sent, and its positions."""
    text = path.read_text() if path.exists() else ""
    rows = [list(map(float, line.split())) for line in text.splitlines() if line.count(" ") == 7]
    return np.array(rows).reshape(-1, 8)


def speed(path):
    rows = commands(path)[-2:]
    return np.abs(np.diff(rows[:, 1:7], axis=0)).max(initial=0.0) / T


def pressed(folder, key, after_s):
    """Press a key at the terminal of a command whose arm moves; return its exit code and when that was."""
    path = folder / "commands.txt"
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        words = [sys.executable, "-c", COMMAND, "--robot", "watched", "--process", "--out", "run"]
        os.execve(sys.executable, [sys.executable, "-c", SHELL, *words], os.environ | {"COMMANDS": str(path)})
    shown = []

    def read():
        while select.select([terminal], [], [], 60)[0]:
            try:
                shown.append(os.read(terminal, 1 << 16))
            except OSError:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    end_s = time.monotonic() + 60
    while speed(path) < 0.2:
        assert time.monotonic() < end_s, b"".join(shown).decode()[-2000:]
        time.sleep(0.02)
    time.sleep(after_s)
    at_s = time.monotonic()
    if key is None:
        os.killpg(os.tcgetpgrp(terminal), signal.SIGHUP)  # as the kernel does where a terminal goes away
    else:
        os.write(terminal, key)
    status = None
    for _ in range(400):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    else:
        os.kill(process, signal.SIGKILL)
        pytest.fail(b"".join(shown).decode()[-2000:])
    reader.join(5)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), at_s, b"".join(shown).decode()


@pytest.mark.few(1)
@pytest.mark.parametrize("name", KEYS)
def test_whatever_is_done_at_the_terminal_the_arm_brakes(install, tmp_path, soak, name):
    """At one random moment each; at seventeen with ``--soak``, a hundred in all."""
    if not (shipped(DEFAULT_BUNDLE) / "manifest.json").is_file():
        pytest.skip("the shipped bundle is not here")
    install("watched_robot", WATCHED, {"robots": "watched = watched_robot:ROBOT"})
    rng = random.Random(f"{soak.seed} {name}")
    key, exit_code = KEYS[name]
    for turn in range(17 if soak.all else 1):
        folder = tmp_path / str(turn)
        folder.mkdir()
        code, at_s, shown = pressed(folder, key, rng.uniform(0.0, 0.6))
        time.sleep(0.7)  # motion ends by itself where who plans was killed
        rows = commands(folder / "commands.txt")
        assert code == exit_code, shown[-2000:]
        assert len(rows) > 20
        speeds = np.diff(rows[:, 1:], axis=0) / T
        assert (np.abs(np.diff(speeds, axis=0)) <= np.array(SAFETY.joints.acceleration) * T + 1e-6).all(), (
            "a brake too hard"
        )
        assert not speeds[-1].any(), "it is at rest"
        moving_s = rows[1:, 0][np.abs(speeds[:, :6]).max(axis=1) > 0]
        if soak.all:
            assert moving_s[-1] - at_s < 1.0
