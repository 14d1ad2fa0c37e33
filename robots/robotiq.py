"""A Robotiq gripper by the text protocol of its URCap: one line asks, one line answers, on a thread of its own."""

import socket
import threading
import time
from contextlib import suppress

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
        self._ended = threading.Event()
        try:
            self._line = socket.create_connection((host, port), ANSWER_S)
            self._line.settimeout(ANSWER_S)
            self._look()
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
            if int(self._ask("GET STA").split()[1]) != ACTIVE:
                self._ask("SET ACT 1")
                end_s = time.monotonic() + ACTIVATE_S
                while int(self._ask("GET STA").split()[1]) != ACTIVE:
                    if time.monotonic() > end_s:
                        raise ValueError(f"it is not active after {ACTIVATE_S:g} s")
                    time.sleep(PERIOD_S)
            self._ask("SET GTO 1")
        except (OSError, ValueError, IndexError) as error:
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
            with suppress(OSError, ValueError, IndexError):  # what is not looked at grows old
                if (wanted := self._wanted) != sent and wanted is not None:
                    self._ask(f"SET POS {wanted}")
                    sent = wanted
                self._look()

    def _look(self) -> None:
        asked_s = time.monotonic()
        position = int(self._ask("GET POS").split()[1])
        self.fault = int(self._ask("GET FLT").split()[1])
        self.opening, self.at_s = (CLOSED - position) / (CLOSED - OPEN), asked_s

    def _ask(self, line: str) -> str:
        self._line.sendall(f"{line}\n".encode("ascii"))
        answer = self._line.recv(1024)
        if not answer:
            raise OSError("it hung up")
        return answer.decode("ascii").strip()
