"""The motion process: player, gate and driver on a clock of their own, beside whatever plans.

`remote.RemoteArm` starts it (`command`) with its end of the link. It imports no torch and runs no handler: signals are blocked
and waited for by a thread. Whatever ends it, the arm brakes first: a wish to end, a signal, a planner that is gone.
"""

import ctypes
import fcntl
import gc
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from dvgwm.runtime.errors import ConfigError, DvgwmError, RobotCommunicationError, ShapeError
from dvgwm.runtime.strict import strict

from . import link, motion
from .limits import SafetyLimits
from .link import Kind, Line
from .spec import ArmModel, MirroredRobot, RobotSpec, SimulationOptions
from .tightening import wider

PRIORITY = 20
"""Of 1 to 99, where real-time priority is allowed: before all that has none, behind what the kernel does."""
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
CODES = tuple(motion.MESSAGES)
"""A log code is told by its place in here."""
LOST = 42
"""Exit code where the planner is gone."""
MCL_CURRENT, MCL_FUTURE = 1, 2
"""Of sys/mman.h."""


@dataclass(slots=True)
class Ending:
    """Why the process is to end, an exit code, None while it is not."""

    code: int | None = None


def watched_signals() -> Ending:
    """Return what a thread writes to that waits for the signals that end a run; they have to be blocked in all threads."""
    ending = Ending()

    def wait() -> None:
        first_in_line()
        ending.code = SIGNALS[signal.Signals(signal.sigwait(SIGNALS))]

    threading.Thread(target=wait, daemon=True).start()
    return ending


def first_in_line() -> None:
    """Let this thread run before all that is not real-time, where that is allowed; it sleeps for half of every period."""
    with suppress(OSError, AttributeError):  # not allowed; another system
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))


def kept_in_memory() -> None:
    """Keep the process' memory from being swapped out, where that is allowed."""
    with suppress(AttributeError):
        ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_FUTURE)


def locked(robot: str) -> int:
    """Return the descriptor of a lock that one process can have for ``robot``; raises `RobotCommunicationError`."""
    folder = Path(tempfile.gettempdir()) / f"dvgwm-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        held = os.open(folder / f"{robot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RobotCommunicationError(
            "ROBOT_LOCK", f"cannot make a lock in {folder}: {error}; look whose it is"
        ) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise RobotCommunicationError(
            "ROBOT_LOCKED", f"another runtime has the robot {robot} ({folder}); end it first, two cannot move one arm"
        ) from None
    return held


@dataclass(slots=True)
class Driver:
    """A robot's driver as motion sees it: one that raises is a robot that does not answer, whatever it raises.

    ``answered_s`` is when both ways last went well, ``failure`` what was raised since.
    """

    robot: MirroredRobot
    joint_names: Sequence[str]
    measured: tuple[float, ...]
    answered_s: float = 0.0
    failure: str | None = None

    def read(self, now_s: float) -> None:
        """Measure the joints."""
        try:
            self.measured = self.robot.positions()
        except Exception as error:  # a vendor's own
            self.failure = f"{type(error).__name__}: {error}"
        if self.failure is None:
            self.answered_s = now_s

    def send(self, position: Sequence[float]) -> None:
        """Send a command; the next measurement counts only if it was taken."""
        try:
            self.robot.send_action({f"{name}.pos": q for name, q in zip(self.joint_names, position, strict=True)})
            self.failure = None
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"


def serve(model: ArmModel, robot: MirroredRobot, line: Line, origin_s: float, ending: Ending) -> int:
    """Run motion until it is to end and the arm is at rest, and return the exit code; a late tick is not made up for.

    Raises `RobotCommunicationError` where the driver went on failing until nothing may be sent any more.
    """
    driver = Driver(robot, model.joint_names, robot.positions())
    core = motion.start(model.limits, model.period_s, driver.measured)
    box, heard_s, due_s = motion.Mailbox(), 0.0, time.monotonic()
    while True:
        for message in line.receive():
            heard_s = message.sent_s
            box = _posted(box, message)
            if message.kind is Kind.END:
                ending.code = ending.code or 0
        now_s = time.monotonic() - origin_s  # after all that was said before it: nothing is younger than now
        if line.closed and ending.code is None:
            ending.code = LOST
        if ending.code is not None:
            box = replace(box, stop=True)
        alive_s = heard_s if core.track is not None else None  # who has nothing played need not say that it lives
        driver.read(now_s)
        seen = replace(box, measured=driver.measured, measured_s=driver.answered_s, heartbeat_s=alive_s)
        core, verdict, event = motion.step(core, now_s, seen)
        if core.gate.latched == "ROBOT_SILENT" and driver.failure is not None:
            raise RobotCommunicationError("ROBOT_DRIVER", f"the driver failed: {driver.failure}; look at the arm first")
        if verdict.send:
            driver.send(verdict.position)
        robot.advance(model.period_s)
        code = core.gate.latched or (None if event is None else event.log_code)
        line.send(Kind.STATE, now_s, link.pack_state(_state(core, code, verdict.joint, seen, robot)))
        if ending.code is not None and core.resting:
            return ending.code
        due_s = max(due_s + model.period_s, time.monotonic() + model.period_s / 2)
        time.sleep(max(0.0, due_s - time.monotonic()))


def _posted(box: motion.Mailbox, message: link.Message) -> motion.Mailbox:
    """Return the mailbox after a message; a chunk that makes no sense stops the arm."""
    if message.kind is Kind.STOP:
        return replace(box, stop=True)
    if message.kind is not Kind.CHUNK:
        return box
    sent = link.unpack_chunk(message.body)
    try:
        if sent is None:
            return replace(box, stop=True)
        observed_s = None if sent.observed_s != sent.observed_s else sent.observed_s
        return motion.Mailbox(motion.JointChunk(sent.sequence, sent.times_s, sent.targets, observed_s))
    except ShapeError:
        return replace(box, stop=True)


def _state(
    core: motion.MotionState, code: str | None, joint: int | None, seen: motion.Mailbox, robot: MirroredRobot
) -> link.State:
    number = -1 if code is None else CODES.index(code)
    latched, measured = core.gate.latched is not None, tuple(seen.measured or ())
    return link.State(number, joint, latched, core.resting, core.gate.position, measured, robot.world())


def run(fd: int, order: Mapping[str, Any]) -> int:
    """Open the robot that ``order`` names and serve it; returns the exit code."""
    ending = watched_signals()
    with ExitStack() as opened:
        line = Line(socket.socket(fileno=fd), int(order["run"]))
        opened.callback(line.close)
        try:
            opened.callback(os.close, locked(f"{order['robot']}-simulated"))
            spec: RobotSpec = next(iter(entry_points(group="dvgwm.robots", name=order["robot"]))).load()
            model = _limited(spec.arm, strict(order["limits"], SafetyLimits))
            robot: Any = spec.simulate(SimulationOptions(**order["options"]))
            robot.connect()
            opened.callback(robot.disconnect)
            gc.collect()
            gc.freeze()
            gc.disable()
            kept_in_memory()
            first_in_line()
            return serve(model, robot, line, float(order["origin_s"]), ending)
        except DvgwmError as error:
            sys.stderr.write(f"{error.line}\n")
            return error.exit_code


def _limited(model: ArmModel, limits: SafetyLimits) -> ArmModel:
    """Return ``model`` with these limits; raises `ConfigError` where they are wider than its own, whoever asks for them."""
    if wide := list(wider(limits, model.limits, model.joint_names)):
        raise ConfigError("LIMITS_WIDER", f"{'; '.join(wide)}; limits can only be made tighter")
    return replace(model, limits=limits)


def main() -> None:
    """Serve the order on the command line and end with its exit code."""
    sys.exit(run(int(sys.argv[1]), json.loads(sys.argv[2])))


def command(fd: int, order: Mapping[str, Any]) -> list[str]:
    """Return the words that start the process on the socket ``fd``."""
    # Blocked before anything is imported: a library's threads have the mask of who started them.
    block = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {sorted(map(int, SIGNALS))})"
    return [sys.executable, "-c", f"{block}\nfrom dvgwm.robots.process import main\nmain()", str(fd), json.dumps(order)]
