"""The motion process: opens a robot and serves it (`serve`), beside whatever plans.

`remote.RemoteArm` starts it (`command`) with its end of the link. It imports no torch and runs no handler: signals are blocked
and waited for by a thread. Whatever ends it, the arm brakes first: a wish to end, a signal, a planner that is gone.
"""

import ctypes
import fcntl
import gc
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from dvgwm.runtime.errors import ConfigError, DvgwmError, RobotCommunicationError
from dvgwm.runtime.strict import strict

from .limits import SafetyLimits
from .link import Line
from .plant import Driver, Plant, RealPlant, SimulatedPlant
from .serve import Ending, begin, serve, wait_armed
from .spec import ArmModel, DriveOptions, RobotSpec, SimulationOptions, driven, simulated
from .tightening import wider

PRIORITY, OTHERS = 20, 10
"""Of 1 to 99, where real-time priority is allowed: before all that has none, behind what the kernel does. Whoever says that a
planner lives, and a simulated robot in a process of its own, come behind motion."""
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
MCL_CURRENT, MCL_FUTURE = 1, 2
"""Of sys/mman.h."""


def watched_signals() -> Ending:
    """Return what a thread writes to that waits for the signals that end a run; they have to be blocked in all threads."""
    ending = Ending()

    def wait() -> None:
        first_in_line()
        ending.code = SIGNALS[signal.Signals(signal.sigwait(SIGNALS))]

    threading.Thread(target=wait, daemon=True).start()
    return ending


def first_in_line(priority: int = PRIORITY) -> None:
    """Let this thread run before all that is not real-time, where that is allowed: it sleeps for most of the time.

    In turns, with threads of its own priority: a vendor's library may spin until a thread that it began has heard the robot.
    """
    with suppress(OSError, AttributeError):  # not allowed; another system
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))


def kept_in_memory() -> None:
    """Keep the process' memory from being swapped out, where that is allowed."""
    with suppress(AttributeError):
        ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_FUTURE)


def locked(robot: str) -> int:
    """Return the descriptor of a lock that one process can have for ``robot``; raises `RobotCommunicationError`."""
    folder = Path(tempfile.gettempdir()) / f"dvgwm-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        held = os.open(
            folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', robot)}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
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


def run(fd: int, order: Mapping[str, Any]) -> int:
    """Open the robot that ``order`` names and serve it; returns the exit code."""
    ending = watched_signals()
    with ExitStack() as opened:
        line = Line(socket.socket(fileno=fd), int(order["run"]))
        opened.callback(line.close)
        try:
            real = order.get("drive")
            spec: RobotSpec = next(iter(entry_points(group="dvgwm.robots", name=order["robot"]))).load()
            model = _limited(spec.arm, strict(order["limits"], SafetyLimits))
            name, plant = _simulated(spec, order["options"]) if real is None else _driven(spec, real)
            opened.callback(os.close, locked(f"{spec.name}-{name}"))
            first_in_line()  # and whatever threads a driver starts
            driver = Driver(plant, model.joint_names, float(order["origin_s"]), mute=bool(order.get("mute")))
            opened.callback(driver.disconnect)
            driver.connect()
            gc.collect()
            gc.freeze()
            gc.disable()
            kept_in_memory()
            core = begin(model, driver) if real is None else wait_armed(model, driver, line, ending)
            return ending.code or 0 if core is None else serve(core, driver, line, ending)
        except DvgwmError as error:
            sys.stderr.write(f"{error.line}\n")
            return error.exit_code


def _simulated(spec: RobotSpec, options: Mapping[str, Any]) -> tuple[str, Plant]:
    """Return what tells the robot from others of its kind, and the robot."""
    robot: Any = simulated(spec, SimulationOptions(**options))
    return "simulated", SimulatedPlant(robot, spec.arm.period_s)


def _driven(spec: RobotSpec, options: Mapping[str, Any]) -> tuple[str, Plant]:
    robot = driven(spec, DriveOptions(**options))
    return robot.id, RealPlant(robot)


def _limited(model: ArmModel, limits: SafetyLimits) -> ArmModel:
    """Return ``model`` with these limits; raises `ConfigError` where they are wider than its own, whoever asks for them."""
    if wide := list(wider(limits, model.limits, model.joint_names)):
        raise ConfigError("LIMITS_WIDER", f"{'; '.join(wide)}; limits can only be made tighter")
    return replace(model, limits=limits)


def main() -> None:
    """Serve the order on the command line and end with its exit code, without waiting for what a vendor's library left."""
    code = run(int(sys.argv[1]), json.loads(sys.argv[2]))
    sys.stderr.flush()
    os._exit(code)


def command(fd: int, order: Mapping[str, Any]) -> list[str]:
    """Return the words that start the process on the socket ``fd``."""
    # Blocked before anything is imported: a library's threads have the mask of who started them.
    block = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {sorted(map(int, SIGNALS))})"
    return [sys.executable, "-c", f"{block}\nfrom dvgwm.robots.process import main\nmain()", str(fd), json.dumps(order)]
