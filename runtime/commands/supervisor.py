"""Watches over a command in a process of its own: a signal ends it at any moment, inside any library.

Python runs its signal handlers between two of its instructions: a process is deaf while it hangs in an engine, or waits for
a library to load. This one never does either. Only the standard library is imported before the command's process is there.
"""

import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from ..errors import (
    DvgwmError,
    EngineLostError,
    HungUpRunError,
    InternalError,
    InterruptedRunError,
    QuitRunError,
    TerminatedRunError,
)
from ..files import remove_unclaimed

GRACE_S = 1.0
"""What a command gets to stop by itself."""
STOPS: dict[int, tuple[type[DvgwmError], str, str]] = {
    signal.SIGINT: (InterruptedRunError, "INTERRUPTED", "stopped by the operator"),
    signal.SIGTERM: (TerminatedRunError, "TERMINATED", "stopped by a signal"),
    signal.SIGHUP: (HungUpRunError, "HUNG_UP", "stopped because its terminal went away"),
    signal.SIGQUIT: (QuitRunError, "QUIT", "told to quit by the operator"),
}
"""The signals that stop a command, and how its end is told. One that was ignored before stays so, as under nohup."""
_DIES_WITH_PARENT = 1  # Linux: PR_SET_PDEATHSIG


def supervise(work: Callable[[], int], kept: str) -> NoReturn:
    """Run ``work`` in a process of its own and exit with its result, or with the code of the signal, if one stopped it.

    Stopped, it gets `GRACE_S` seconds; then it is killed, and its unfinished outputs (`files.unfinished`) are removed.
    ``kept`` names the ones left then. A crash in ``work`` is told as `EngineLostError`.
    """
    heard = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, (*heard, signal.SIGCHLD))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some hand it on, it would take the exit status away
    _open_closed_streams()
    journal, notes = os.pipe()
    supervisor, command = os.getpid(), os.fork()
    if command == 0:
        os.close(journal)
        _die_with(supervisor)
        sys.addaudithook(lambda event, facts: _note(notes, event, facts))
        if "--debug" not in sys.argv:
            _silence_libraries()
        for number in heard:
            signal.signal(number, _stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*heard, signal.SIGCHLD))
        try:
            sys.exit(work())
        finally:
            sys.audit("dvgwm.ended", "")
    os.close(notes)
    stopped, status, story = _wait(command, journal, heard)
    for path in story.unfinished:
        _remove(path)
    for path in story.made:
        with suppress(OSError):
            os.rmdir(path)
    error = _ending(stopped, status, story, kept)
    if error is not None:
        _tell(error)
    os._exit(os.waitstatus_to_exitcode(status) if error is None else error.exit_code)


class _Story:
    """The command's account of itself: unfinished paths, folders made for them, the running engine, whether it ended."""

    def __init__(self) -> None:
        self.unfinished: dict[str, None] = {}
        self.made: list[str] = []
        self.engine = ""
        self.ended = False
        self._rest = b""

    def add(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\0")
        for line in lines:
            event, _, fact = os.fsdecode(line).partition(" ")
            if event == "dvgwm.unfinished":
                self.unfinished[fact] = None
            elif event == "dvgwm.finished":
                self.unfinished.pop(fact, None)
            elif event == "dvgwm.made":
                self.made.append(fact)
            elif event == "dvgwm.ended":
                self.ended = True
            else:
                self.engine = fact


def _wait(command: int, journal: int, heard: list[int]) -> tuple[int | None, int, _Story]:
    """Return the command's stopping signal if any, its exit status and its story."""
    woken, wakes = os.pipe()
    for descriptor in (journal, woken, wakes):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    for number in (*heard, signal.SIGCHLD):
        signal.signal(number, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*heard, signal.SIGCHLD))
    story = _Story()
    stopped: int | None = None
    killed_at: float | None = None
    while True:
        left = None if killed_at is None else max(killed_at - time.monotonic(), 0.0)
        select.select([woken, journal], [], [], left)
        story.add(_read(journal))
        for number in _read(woken):
            if number in heard and stopped is None:
                stopped, killed_at = number, time.monotonic() + GRACE_S
                os.kill(command, number)
        if killed_at is not None and time.monotonic() >= killed_at:
            os.kill(command, signal.SIGKILL)
            killed_at = None
        ended, status = os.waitpid(command, os.WNOHANG)
        if ended:
            story.add(_read(journal))
            return stopped, status, story


def _ending(stopped: int | None, status: int, story: _Story, kept: str) -> DvgwmError | None:
    """Return the line for a command's stop or crash, None if it ended by itself."""
    code = os.waitstatus_to_exitcode(status)
    if code == 0 and not story.ended:
        return InternalError("ENDED", f"a library ended the process before the command was done; {kept}")
    if code == 0:
        return None  # a signal that comes when all is done comes too late
    number = stopped if stopped is not None else -code
    if number in STOPS:
        kind, log_code, what = STOPS[number]
        return kind(log_code, f"{what}; {kept}")
    if code >= 0:
        return None
    return EngineLostError(
        "ENGINE_LOST",
        f"the process was ended by {signal.Signals(number).name} while {story.engine or 'no engine'} ran; {kept}; where memory "
        "is short use fewer --threads or a smaller bundle, run again with --debug to see the libraries' own messages",
    )


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind the command's process, in silence: the supervisor tells how it ended."""
    for other in STOPS:
        signal.signal(other, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in {2, sys.stderr.fileno()}:
        os.dup2(null, descriptor)
    # Neither is an Exception: no part that turns a library's errors into ours may take this for one of them.
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _silence_libraries() -> None:
    """Keep standard error for ourselves: libraries write to it before the one line of the error."""
    ours = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stderr = open(ours, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")  # noqa: SIM115
    warnings.simplefilter("ignore")


def _note(notes: int, event: str, facts: tuple[object, ...]) -> None:
    if event.startswith("dvgwm."):
        os.write(notes, os.fsencode(f"{event} {facts[0]}\0"))


def _die_with(supervisor: int) -> None:
    """End this process when its supervisor is killed, if the system offers it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != supervisor:
            os._exit(1)


def _open_closed_streams() -> None:
    """Open /dev/null for every closed standard stream: else the next file would be taken for it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (the lowest free descriptor, which is the stream's)


def _read(descriptor: int) -> bytes:
    data = b""
    try:
        while part := os.read(descriptor, 1 << 16):
            data += part
    except BlockingIOError:
        pass
    return data


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        remove_unclaimed(path)
        return
    with suppress(OSError):
        os.unlink(path)


def _tell(error: DvgwmError) -> None:
    """Write the error's line, on a terminal after a progress bar's rest."""
    line = error.line + "\n"
    if os.isatty(2):
        line = f"\r\x1b[K\x1b[?25h{line}"
    with suppress(OSError):
        os.write(2, line.encode("utf-8", "backslashreplace"))
