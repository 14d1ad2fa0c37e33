"""An arm whose motion is another process: what plans talks to it over a link, in real time, and can end or hang as it likes."""

import math
import secrets
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NoReturn, Protocol

import numpy as np

from dvgwm.runtime.errors import ConfigError, GateLatchError, RobotCommunicationError, RobotStopError
from dvgwm.runtime.types import ActionChunk, ArmEvent, ImageArray, MotionRecord, Observation, Tick

from . import link, messages, motion
from .arm import RECORDED_S, OnFrame, joint_targets, unreachable
from .link import Kind
from .process import OTHERS, first_in_line, start
from .serve import CODES
from .spec import ArmModel

START_S, REST_S, END_S = 20.0, 5.0, 2.0
"""How long motion may take to start, to come to rest and to end."""
ALIVE_S = 0.02
POLL_S = 0.004
KINDS = (ConfigError, RobotCommunicationError, RobotStopError, GateLatchError)
"""Errors that motion may end with."""
SILENT_S = 0.3
"""How long motion, which tells its state every 20 ms, may say nothing."""


class Eyes(Protocol):
    """What is seen of an arm whose motion is elsewhere."""

    def images(self, state: link.State) -> Mapping[str, ImageArray]:
        """Return what the cameras see; raises `CameraLostError` where they see nothing any more."""

    def frame_s(self) -> float | None:
        """Return when the newest frame was taken, on the machine's monotonic clock; None where none is waited for."""

    def close(self) -> None:
        """Let go of the cameras."""


class RemoteArm:
    """An arm whose motion and gate run in a process of their own; implements `runtime.seams.Arm`.

    ``order`` tells the process how to open the robot, ``eyes`` are closed with the arm. Raises `RobotCommunicationError` where
    motion does not start or another runtime has the robot, and what the driver raises.
    """

    def __init__(self, model: ArmModel, order: Mapping[str, Any], eyes: Eyes, on_frame: OnFrame | None = None) -> None:
        self.model, self._eyes, self._on_frame = model, eyes, on_frame
        self._origin_s, self._sequence, self._events = time.monotonic(), 0, list[ArmEvent]()
        run = secrets.randbits(63)
        self._line, there = link.link(run)
        order = {**order, "run": run, "origin_s": self._origin_s, "limits": asdict(model.limits)}
        with there:
            self._child = start(model.name, there.fileno(), order)
        self._process = self._child.process
        self._recorded = deque[Tick](maxlen=round(RECORDED_S / self.model.period_s))
        self._state: tuple[float, link.State] | None = None
        self._told: str | None = None
        self.said = self.about = ""
        try:
            self._wait(lambda: self._state is not None, START_S, "start")
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._keep_alive, daemon=True).start()

    @property
    def time_s(self) -> float:
        """The arm's clock: seconds since it was opened."""
        return time.monotonic() - self._origin_s

    def observe(self) -> Observation:
        """Return what is seen of the newest state; raises `RobotCommunicationError` where motion ended or hangs."""
        images = self._eyes.images(self._known()[1])
        at_s, state = self._known()
        return Observation(dict(images), np.asarray(state.measured), at_s)

    def play(self, chunk: ActionChunk) -> None:
        """Have ``chunk`` played until its last action is due; raises as `arm.VirtualArm.play`."""
        self._sequence += 1
        targets, missed = joint_targets(self.model, chunk, self._known()[1].commanded)
        self._events += [unreachable(missed, len(targets), self.time_s)] if missed else []
        times_s = tuple(map(float, chunk.times_s))
        motion.JointChunk(self._sequence, times_s, targets)  # what makes no sense is told here, and not sent
        observed_s = math.nan if chunk.observed_s is None else chunk.observed_s
        begun_s = self.time_s
        self._say(Kind.CHUNK, link.pack_chunk(link.Chunk(self._sequence, observed_s, times_s, targets)))
        for time_s, action in zip(times_s, chunk.actions, strict=True):
            self._until(time_s)
            if self._on_frame is not None and time_s > begun_s:
                self._on_frame(self.observe(), action)

    def hold(self, seconds: float) -> None:
        """Let time pass while the arm comes to rest and holds."""
        self._say(Kind.STOP)
        self._until(self.time_s + seconds)

    def events(self) -> Sequence[ArmEvent]:
        """Return the events since the last call."""
        self._hear()
        events, self._events = self._events, []
        return events

    def recorded(self) -> MotionRecord:
        """Return the last half minute of motion."""
        self._hear()
        return MotionRecord(self.model.joint_names, tuple(self._recorded))

    def stop(self) -> None:
        """Brake until every joint is at rest; motion that has ended did so before, one that hangs cannot be waited for."""
        self._line.send(Kind.STOP, self.time_s)
        self._wait(lambda: self._process.poll() is not None or self._silent() or self._resting, REST_S, "come to rest")

    def close(self) -> None:
        """Have motion brake and end, and let go of what sees the arm."""
        self._line.send(Kind.END, self.time_s)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._line.close()
        self._child.close()
        self._eyes.close()

    def _known(self) -> tuple[float, link.State]:
        """Return the newest state; raises `RobotCommunicationError` where motion has ended or says nothing any more."""
        if self._line.closed:  # it is about to end
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
        if self._state is None or self._process.poll() is not None:
            self._lost()
        if self._silent():
            raise RobotCommunicationError(
                "MOTION_SILENT", f"the motion process has said nothing for {SILENT_S:g} s; look at the arm first"
            )
        return self._state

    def _silent(self) -> bool:
        """Whether motion says nothing. The link holds a few seconds of states: after a long plan the newest is yet to come."""
        end_s = self.time_s + SILENT_S
        while True:
            self._hear()
            if self._state is None or self.time_s - self._state[0] <= SILENT_S:
                return False
            if self.time_s > end_s:
                return True
            time.sleep(POLL_S)

    @property
    def _resting(self) -> bool:
        return self._state is not None and self._state[1].resting

    def _lost(self) -> NoReturn:
        if (error := self._child.error(KINDS)) is not None:
            raise error
        said = self._child.said()
        last = f": {said.splitlines()[-1]}" if said else ""
        raise RobotCommunicationError(
            "MOTION_ENDED",
            f"the motion process ended with code {self._process.returncode}{last}; look at the arm first",
        )

    def _say(self, kind: Kind, body: bytes = b"") -> None:
        if not self._line.send(kind, self.time_s, body):
            self._process.wait(END_S)
            self._lost()

    def _hear(self) -> None:
        for message in self._line.receive():
            if message.kind is Kind.TOLD:
                self.said = message.body.decode("utf-8", "replace")
            if message.kind is Kind.ABOUT:
                before, self.about = self.about, message.body.decode("utf-8", "replace")
                self._events += [ArmEvent("ROBOT_ABOUT", message.sent_s, self.about)] if before else []
            state = link.unpack_state(message.body) if message.kind is Kind.STATE else None
            if state is None:
                continue
            self._state = message.sent_s, state
            code = None if state.code < 0 else CODES[state.code]
            self._recorded.append(Tick(message.sent_s, state.commanded, state.measured, code))
            if code is not None and not (state.latched and code == self._told):
                where = "" if state.joint is None else f" at joint {state.joint + 1}"
                self._events.append(ArmEvent(code, message.sent_s, messages.MESSAGES[code].format(where=where)))
            self._told = code if state.latched else None

    def _wait(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        end_s = time.monotonic() + seconds
        while True:
            self._hear()
            if done():
                return
            if self._process.poll() is not None:
                self._lost()
            if time.monotonic() > end_s:
                self._process.kill()
                raise RobotCommunicationError("MOTION_SLOW", f"the motion process did not {what} within {seconds:g} s")
            time.sleep(POLL_S)

    def _until(self, time_s: float) -> None:
        while True:
            self._hear()
            _, state = self._known()
            if state.latched:
                self.stop()
                raise messages.stopped(CODES[state.code], self.said)
            left_s = time_s - self.time_s
            if left_s <= 0:
                return
            time.sleep(min(left_s, POLL_S))

    def _keep_alive(self) -> None:
        """Say every few milliseconds that whoever plans is there, and how new what it sees is."""
        first_in_line(OTHERS)
        while not self._line.closed:
            frame_s = self._eyes.frame_s()
            body = link.pack_frame(None if frame_s is None else frame_s - self._origin_s)
            self._line.send(Kind.ALIVE, self.time_s, body)
            time.sleep(ALIVE_S)
