"""A Robotiq gripper by the text protocol of its URCap: one line asks, one line answers, on a thread of its own."""

import re
import socket
import threading
import time
from contextlib import ExitStack, suppress

from dvgwm.runtime.errors import RobotCommunicationError

PORT = 63352
ANSWER_S, PERIOD_S, ACTIVATE_S = 0.5, 0.05, 8.0
OPEN, CLOSED = 0, 255
ACTIVE = 3
"""Of STA: the fingers have found their ends."""


class Robotiq:
    """A gripper at ``host``; ``opening`` is 0 closed to 1 open, and was true at ``at_s`` on the machine's clock.

    Raises `RobotCommunicationError` where none answers. What goes wrong later makes ``at_s`` old.
    """

    def __init__(self, host: str, port: int = PORT) -> None:
        self.opening, self.at_s, self.fault = 0.0, 0.0, 0
        self._wanted: int | None = None
        self._ended, self._asking = threading.Event(), threading.Lock()
        try:
            self._line = socket.create_connection((host, port), ANSWER_S)
            self._line.settimeout(ANSWER_S)
            with ExitStack() as failed:
                failed.callback(self._line.close)
                self._look()
                failed.pop_all()
        except (OSError, ValueError) as error:
            raise RobotCommunicationError(
                "GRIPPER_CONNECT",
                f"no Robotiq gripper answers at {host}:{port} ({error}); look at its URCap, or set gripper",
            ) from error

    def start(self) -> None:
        """Look at it, and move it where it is wanted, from now on."""
        threading.Thread(target=self._serve, daemon=True).start()

    def activate(self) -> None:
        """Have it find the ends of its fingers, where it has not: they move. Raises `RobotCommunicationError`."""
        try:
            if self._get("STA") != ACTIVE:
                self._set("ACT", 1)
                end_s = time.monotonic() + ACTIVATE_S
                while self._get("STA") != ACTIVE:
                    if time.monotonic() > end_s:
                        raise ValueError(f"it is not active after {ACTIVATE_S:g} s")
                    time.sleep(PERIOD_S)
            self._set("GTO", 1)
        except (OSError, ValueError) as error:
            raise RobotCommunicationError("GRIPPER_ACTIVATE", f"the gripper does not get ready: {error}") from error

    def move(self, opening: float) -> None:
        """Have it go to ``opening`` soon."""
        self._wanted = round(CLOSED + (OPEN - CLOSED) * min(max(opening, 0.0), 1.0))

    def close(self) -> None:
        """Let go of it; it stays where it is."""
        self._ended.set()
        self._line.close()

    def _serve(self) -> None:
        sent = None
        while not self._ended.wait(PERIOD_S):
            with suppress(OSError, ValueError):  # what is not looked at grows old
                if (wanted := self._wanted) != sent and wanted is not None:
                    self._set("POS", wanted)
                    sent = wanted
                self._look()

    def _look(self) -> None:
        asked_s = time.monotonic()
        position, self.fault = self._get("POS"), self._get("FLT")
        self.opening, self.at_s = (CLOSED - position) / (CLOSED - OPEN), asked_s

    def _get(self, name: str) -> int:
        return int(self._answer(f"GET {name}", rf"{name} (\d+)"))

    def _set(self, name: str, value: int) -> None:
        self._answer(f"SET {name} {value}", "(ack)")

    def _answer(self, line: str, form: str) -> str:
        """Return the answer to ``line``: one thread asks at a time, and what answers an earlier line is passed over."""
        with self._asking:
            self._line.sendall(f"{line}\n".encode("ascii"))
            while heard := self._line.recv(1024):
                if found := re.findall(form, heard.decode("ascii")):
                    return str(found[-1])
        raise OSError("it hung up")
