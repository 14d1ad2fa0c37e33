"""The motion process: opens a robot and serves it (`serve`), beside whatever plans.

`remote.RemoteArm` starts it (`start`) with its end of the link. It imports no torch and runs no handler: signals are blocked
and waited for by a thread. Whatever ends it, the arm brakes first: a wish to end, a signal, a planner that is gone.
"""

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from dvgwm.runtime.child import Child, catchable_signals, end_process
from dvgwm.runtime.errors import ConfigError, DvgwmError
from dvgwm.runtime.strict import strict

from .limits import SafetyLimits
from .link import Line
from .lock import identities, lock
from .origin import check_origin, load, origin
from .plant import Driver, Plant, RealPlant, SimulatedPlant
from .serve import Ending, begin, serve, wait_armed
from .spec import ArmModel, DriveOptions, RobotSpec, SimulationOptions, driven, simulated
from .tightening import wider

PRIORITY, OTHERS = 20, 10
"""Of 1 to 99, where real-time priority is allowed: before all that has none, behind what the kernel does. Whoever says that a
planner lives, and a simulated robot in a process of its own, come behind motion."""
HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
"""Signals that end no process."""
MCL_CURRENT, MCL_FUTURE = 1, 2
"""Of sys/mman.h."""


def watched_signals() -> Ending:
    """Return what a thread writes to that waits for the signals that end a run; they have to be blocked in all threads.

    Those are all that would end or stop the process. One that was ignored before stays so, as under nohup.
    """
    ending = Ending()
    waited = {number for number in catchable_signals() - HARMLESS if signal.getsignal(number) is not signal.SIG_IGN}

    def wait() -> None:
        first_in_line()
        ending.code = 128 + signal.sigwait(waited)

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


def run(order: Mapping[str, Any]) -> tuple[int, DvgwmError | None]:
    """Open the robot that ``order`` names and serve it; returns the exit code, and the error that it is of."""
    ending = watched_signals()
    with ExitStack() as opened:
        line = Line(socket.socket(fileno=int(order["link"])), int(order["run"]))
        opened.callback(line.close)
        try:
            real = order.get("drive")
            check_origin(order["robot"], order["origin"])
            spec = load(order["robot"])
            model = _limited(spec.arm, strict(order["limits"], SafetyLimits))
            plant = _simulated(spec, order["options"]) if real is None else _driven(spec, real, opened)
            first_in_line()  # and whatever threads a driver starts
            driver = Driver(plant, model.joint_names, float(order["origin_s"]), mute=bool(order.get("mute")))
            opened.callback(driver.disconnect)
            driver.connect()
            gc.collect()
            gc.freeze()
            gc.disable()
            kept_in_memory()
            core = begin(model, driver) if real is None else wait_armed(model, driver, line, ending)
            return ending.code or 0 if core is None else serve(core, driver, line, ending), None
        except DvgwmError as error:
            return error.exit_code, error


def _simulated(spec: RobotSpec, options: Mapping[str, Any]) -> Plant:
    """Return a simulated robot: a world of its own, which nobody else can command."""
    robot: Any = simulated(spec, SimulationOptions(**options))
    return SimulatedPlant(robot, spec.arm.period_s)


def _driven(spec: RobotSpec, said: Mapping[str, Any], opened: ExitStack) -> Plant:
    """Return a real robot, locked until ``opened`` is closed."""
    options = DriveOptions(**said)
    robot = driven(spec, options)
    for name in identities(robot, options):
        opened.callback(os.close, lock(name))
    return RealPlant(robot)


def _limited(model: ArmModel, limits: SafetyLimits) -> ArmModel:
    """Return ``model`` with these limits; raises `ConfigError` where they are wider than its own, whoever asks for them."""
    if wide := list(wider(limits, model.limits, model.joint_names)):
        raise ConfigError("LIMITS_WIDER", f"{'; '.join(wide)}; limits can only be made tighter")
    return replace(model, limits=limits)


def main() -> None:
    """Serve the order on the command line and end with its exit code, without waiting for what a vendor's library left."""
    end_process(*run(json.loads(sys.argv[1])))


def start(robot: str, fd: int, order: Mapping[str, Any]) -> Child:
    """Return the motion process of the robot called ``robot`` with its end of the link, the socket ``fd``."""
    order = {"robot": robot, "link": fd, "origin": origin(robot), **order}
    return Child("dvgwm.robots.process", order, [fd], catchable_signals())
