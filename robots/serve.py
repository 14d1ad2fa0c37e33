"""Motion in real time: a robot is read, one step of motion is made, what may be sent is sent; every period, until it is to end.

A real robot is locked at first: it is read, and sent nothing, until a person armed it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan

from dvgwm.runtime.child import cut_log
from dvgwm.runtime.errors import GateLatchError, RobotCommunicationError, RobotStopError, ShapeError

from . import gate, link, messages, motion
from .link import Kind, Line
from .plant import Driver, failed
from .spec import ArmModel

CODES = tuple(messages.MESSAGES)
"""A log code is told by its place in here."""
EARLIEST = 0.9
"""The least share of a period between two ticks: a command is gone to within the time until the next."""
LOST = 42
"""Exit code where the planner is gone."""


@dataclass(slots=True)
class Ending:
    """Why motion is to end, an exit code, None while it is not."""

    code: int | None = None


class Clock:
    """Wakes up every ``period_s``. What one tick is late by is not made up for by another that comes much too early."""

    def __init__(self, period_s: float) -> None:
        self._period_s, self._due_s = period_s, time.monotonic()
        self._woke_s = self._due_s

    def wait(self) -> None:
        """Sleep until the next tick is due; what was written meanwhile is cut to what is kept of it."""
        cut_log()
        self._due_s = max(self._due_s + self._period_s, self._woke_s + EARLIEST * self._period_s)
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        self._woke_s = time.monotonic()


def begin(model: ArmModel, driver: Driver, seen: Sequence[float] | None = None) -> motion.MotionState:
    """Return motion's first state, at rest where the robot is; ``seen`` is where a person saw it.

    Raises `RobotCommunicationError` where the robot is silent, `RobotStopError` where it has stopped itself, `GateLatchError`
    where it is outside of its limits or no longer where it was seen.
    """
    driver.read()
    age_s = driver.now_s - driver.answered_s
    if driver.failure is not None:
        raise failed(driver.failure)
    if not gate.fresh(age_s, model.limits.state_age_s):
        raise RobotCommunicationError(
            "ARM_SILENT",
            f"wanted a state of the robot at most {model.limits.state_age_s:g} s old, got {age_s:.3g} s; look at its driver",
        )
    if driver.stop is not None:
        raise RobotStopError(
            "ARM_STOPPED", f"the robot has stopped itself: {driver.stop}; clear that at the robot, never from here"
        )
    if driver.untrusted is not None:
        raise RobotCommunicationError("ROBOT_UNTRUSTED", f"the robot cannot be relied on: {driver.untrusted}")
    core = motion.start(model.limits, model.period_s, driver.measured)
    count = len(driver.measured)
    place = driver.measured if seen is None else (*seen, *(nan,) * count)[:count]
    for name, at, was, most in zip(model.joint_names, driver.measured, place, model.limits.jump, strict=True):
        if not abs(at - was) <= most:  # written so that NaN is elsewhere
            raise GateLatchError(
                "ARM_MOVED", f"{name} was seen at {was:.3f} and is at {at:.3f} now; let the arm rest, then arm it again"
            )
    return core


def wait_armed(model: ArmModel, driver: Driver, line: Line, ending: Ending) -> motion.MotionState | None:
    """Read the robot and send it nothing until a person armed it; return motion's first state, None if it is to end before.

    Raises as `begin`: an arm that is not to be moved stays locked.
    """
    clock, said = Clock(model.period_s), Said()
    while ending.code is None and not line.closed:
        for message in line.receive():
            if message.kind is Kind.END:
                return None
            if message.kind is Kind.ARM:
                place = link.unpack_pose(message.body)
                begin(model, driver, place)
                driver.engage()
                driver.read()  # that may have taken a while, and a gripper found the ends of its fingers meanwhile
                return begin(model, driver, (*place[:-1], *driver.measured[-1:]))
        driver.read()
        said = _tell(line, driver, said)
        at = driver.measured
        seen = link.State(-1, None, False, True, at, at, armed=False, measured_s=driver.answered_s)
        line.send(Kind.STATE, driver.now_s, link.pack_state(seen))
        driver.failure = None  # nothing is sent yet that could be taken
        clock.wait()
    return None


def serve(core: motion.MotionState, driver: Driver, line: Line, ending: Ending) -> int:
    """Run motion until it is to end and the arm is at rest, and return the exit code.

    Raises `RobotCommunicationError` where the driver went on failing until nothing may be sent any more.
    """
    box, heard_s, said = motion.Mailbox(), 0.0, Said("", driver.about)
    clock = Clock(core.period_s)
    while True:
        frame_s = box.frame_s
        for message in line.receive():
            heard_s = message.sent_s
            frame_s = link.unpack_frame(message.body) if message.kind is Kind.ALIVE else frame_s
            box = _posted(box, message)
            if message.kind is Kind.END:
                ending.code = ending.code or 0
        if line.closed and ending.code is None:
            ending.code = LOST
        box = replace(box, stop=box.stop or ending.code is not None, frame_s=frame_s)
        driver.read()
        said = _tell(line, driver, said)
        now_s = driver.now_s  # after all that was said before it: nothing is younger than now
        seen = _seen(box, core, driver, heard_s)
        core, verdict, event = motion.step(core, now_s, seen)
        if core.gate.latched == "ROBOT_SILENT" and driver.failure is not None:
            raise failed(driver.failure)
        if verdict.send:
            driver.send(verdict.position)
        driver.plant.tick()
        code = core.gate.latched or (None if event is None else event.log_code)
        state = _state(core, code, verdict.joint, driver)
        line.send(Kind.STATE, now_s, link.pack_state(state))
        if ending.code is not None and core.resting:
            return ending.code
        clock.wait()


def _seen(box: motion.Mailbox, core: motion.MotionState, driver: Driver, heard_s: float) -> motion.Mailbox:
    """Return the mailbox with what is seen now. Where nothing is played, nobody need say that he lives, and no camera see."""
    playing = core.track is not None
    return replace(
        box,
        measured=driver.measured,
        measured_s=driver.answered_s,
        stopped=driver.stop is not None,
        untrusted=driver.untrusted is not None,
        heartbeat_s=heard_s if playing else None,
        frame_s=box.frame_s if playing or core.pause is not None else None,
    )


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


@dataclass(frozen=True, slots=True)
class Said:
    """What was last told in words: what is wrong with the robot, and what there is at its address."""

    wrong: str = ""
    about: str = ""


def _tell(line: Line, driver: Driver, said: Said) -> Said:
    """Send what is new in words, and return all of it."""
    now = Said(driver.said, driver.about)
    for kind, text, before in ((Kind.TOLD, now.wrong, said.wrong), (Kind.ABOUT, now.about, said.about)):
        if text != before:
            line.send(kind, driver.now_s, text.encode()[: link.LARGEST_TEXT])
    return now


def _state(core: motion.MotionState, code: str | None, joint: int | None, driver: Driver) -> link.State:
    number = -1 if code is None else CODES.index(code)
    latched, place = core.gate.latched is not None, core.gate.position
    return link.State(
        number, joint, latched, core.resting, place, driver.measured, driver.plant.world(), True, driver.answered_s
    )
