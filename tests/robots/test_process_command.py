"""The command with ``--process``: an episode in real time, and what comes of a process that dies, hangs or cannot write."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from dvgwm.runtime.config.plugins import DEFAULT_BUNDLE, shipped

pytestmark = [pytest.mark.sim, pytest.mark.ort, pytest.mark.slow]
COMMAND = [sys.executable, "-c", "from dvgwm.runtime.cli import main; main()", "--robot", "galaxea_a1", "--process"]
ENDED_S = 10.0
"""Two seconds are wanted, which no machine with other work can promise."""


@dataclass(frozen=True)
class Running:
    """The command's processes: the one that watches, the one that plans, the one that moves."""

    command: subprocess.Popen
    plans: int
    moves: int

    @property
    def left(self):
        """Those of them that are still there."""
        return [pid for pid in (self.command.pid, self.plans, self.moves) if os.path.exists(f"/proc/{pid}")]


def children(pid):
    """Return the processes below ``pid``."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    pairs = list(zip(map(int, listed[::2]), map(int, listed[1::2]), strict=True))
    found, seen = {pid}, 0
    while len(found) > seen:
        seen = len(found)
        found |= {child for child, parent in pairs if parent in found}
    return found - {pid}


def words(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


def begun(tmp_path, *more, largest_bytes=None):
    """Start the command in a folder."""
    if not (shipped(DEFAULT_BUNDLE) / "manifest.json").is_file():
        pytest.skip("the shipped bundle is not here")

    def prepare():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if largest_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_bytes, largest_bytes))

    return subprocess.Popen(
        [*COMMAND, "--out", "run", *more], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=prepare,
    )  # fmt: skip


def sleeps(pid):
    """Return how often a process has gone to sleep: motion does so at every tick, and hardly ever before the first."""
    with open(f"/proc/{pid}/status") as file:
        return int(file.read().split("voluntary_ctxt_switches:")[1].split()[0])


def moving(command, after_s):
    """Return the command's processes so many seconds after motion began to tick."""
    end_s, moves = time.monotonic() + 30, []
    while not moves and time.monotonic() < end_s:
        time.sleep(0.05)
        below = children(command.pid)
        moves = [pid for pid in below if "robots.process" in words(pid)]
    assert len(below) == 2, "the one that plans and the one that moves"
    ticks = 0
    while ticks < 8 and time.monotonic() < end_s:
        before = sleeps(moves[0])
        time.sleep(0.2)
        ticks = sleeps(moves[0]) - before
    time.sleep(after_s)
    return Running(command, (below - set(moves)).pop(), moves[0])


def gone(running):
    """Wait until no process is left."""
    end_s = time.monotonic() + ENDED_S
    while running.left and time.monotonic() < end_s:
        time.sleep(0.02)
    assert not running.left


def test_the_command_runs_an_episode_in_real_time(tmp_path):
    done = begun(tmp_path, "--max-actions", "12")
    out, error = done.communicate(timeout=90)
    assert done.returncode == 0, error
    facts = json.loads(out.splitlines()[-1])
    assert (facts["plan_time"], facts["actions"], facts["stopped"]) == ("real", 12, None)
    assert facts["stages_s"]["motion"] > 0.1, "in real time: what planning left of 1.2 s"


@pytest.mark.few(1)
@pytest.mark.parametrize("to_all", [False, True], ids=["to one", "to all"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_at_a_signal_with_all_its_processes(tmp_path, number, to_all):
    """A terminal sends it to all of them at once, a service manager to the first one."""
    running = moving(begun(tmp_path), 1.0)
    os.killpg(running.command.pid, number) if to_all else running.command.send_signal(number)
    running.command.communicate(timeout=20)
    assert running.command.returncode == 128 + number
    gone(running)


def dead_planner(running):
    os.kill(running.plans, signal.SIGKILL)


def dead_motion(running):
    os.kill(running.moves, signal.SIGKILL)


def hanging_motion(running):
    os.kill(running.moves, signal.SIGSTOP)


def dead_watcher(running):
    running.command.kill()


def hanging_planner(running):
    """Stopped for a third of a second again and again: while something of it is played, that is too long."""
    end_s = time.monotonic() + 60
    while running.command.poll() is None and time.monotonic() < end_s:
        for number, seconds in ((signal.SIGSTOP, 0.3), (signal.SIGCONT, 0.3)):
            try:
                os.kill(running.plans, number)
            except ProcessLookupError:
                return
            time.sleep(seconds)


@dataclass(frozen=True)
class Fault:
    """What is done to a running command, and with which exit code and first word on standard error it ends."""

    name: str
    inject: object
    exit_code: int
    log_code: str | None
    largest_bytes: int | None = None


FAULTS = {
    "F12": Fault("who plans is stopped again and again (SIGSTOP)", hanging_planner, 42, "GATE_HEARTBEAT"),
    "F33 planner": Fault("who plans is killed", dead_planner, 31, "ENGINE_LOST"),
    "F33 watcher": Fault("who watches is killed", dead_watcher, -9, None),
    "F34": Fault("motion is killed, and the simulated arm with it", dead_motion, 40, "MOTION_ENDED"),
    "F34 hangs": Fault("motion is stopped for good (SIGSTOP)", hanging_motion, 40, "MOTION_SILENT"),
    "F37": Fault("no file may be longer than 20 kB (RLIMIT_FSIZE)", lambda running: None, 50, "OUTPUT_WRITE", 20_000),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", FAULTS)
def test_a_process_that_fails_leaves_nothing_running(tmp_path, name, soak):
    """At one random moment each; at twenty with ``--soak``."""
    fault, rng = FAULTS[name], random.Random(f"{soak.seed} {name}")
    for turn in range(20 if soak.all else 1):
        folder = tmp_path / str(turn)
        folder.mkdir()
        running = moving(begun(folder, largest_bytes=fault.largest_bytes), rng.uniform(0.1, 2.5))
        fault.inject(running)
        _, error = running.command.communicate(timeout=90)
        assert running.command.returncode == fault.exit_code, error
        assert error.split()[:2] == ([] if fault.log_code is None else [f"E{fault.exit_code}", fault.log_code])
        gone(running)
        kept = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        assert kept <= ({"run"} if fault.exit_code in (40, 42) else set()), "what was seen until an arm stopped is kept"


def test_the_page_says_what_is_tried(hold_section):
    lines = ["| fault | what is done | log code | exit |", "|---|---|---|---|"]
    for name, fault in FAULTS.items():
        code = "-" if fault.log_code is None else f"`{fault.log_code}`"
        lines.append(f"| {name} | {fault.name} | {code} | {'killed' if fault.exit_code < 0 else fault.exit_code} |")
    hold_section("faults.md", "Processes", "\n".join(lines))
