"""A process of our own for somebody else's library: apart from the terminal, the working directory and its readers.

It has a session of its own: no key at the terminal reaches it. No module of the working directory is imported in place
of installed ones. All its output is taken at once, and the end of it is kept.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import LINE, DvgwmError

LOG = "dvgwm-log"
ERROR = "\x1e"
"""Begins the line of an error for who started the process: a library's own line may look like one, but has no such sign."""
KEPT_BYTES, MOST_BYTES = 16_384, 65_536
"""A log that is longer than `MOST_BYTES` is cut to its last `KEPT_BYTES`."""


class Child:
    """A process with ``main`` of a module and an order in JSON, and the log of its output.

    It inherits the descriptors ``pass_fds``, and begins in ``folder`` (None: here) with the signals ``blocked`` and this
    ``environment`` (None: ours).
    """

    def __init__(
        self,
        module: str,
        order: Mapping[str, Any],
        pass_fds: Sequence[int],
        blocked: Iterable[int] = (),
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # Memory: a pipe that is not read would block who writes, at any moment and for good.
        self._log = os.memfd_create(LOG)
        fcntl.fcntl(self._log, fcntl.F_SETFL, os.O_APPEND)
        try:
            self.process = subprocess.Popen(  # noqa: S603 (our own module, our own words)
                command(module, order, blocked),
                pass_fds=pass_fds,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
                cwd=folder,
                env=_without_working_directory(os.environ if environment is None else environment),
            )
        except BaseException:
            os.close(self._log)
            raise

    def said(self) -> str:
        """Return the end of its output."""
        return self._written().replace(ERROR, "").strip()

    def error(self, kinds: Iterable[type[DvgwmError]]) -> DvgwmError | None:
        """Return the last error of one of ``kinds`` in its output, or None; a library's lines are no errors."""
        by_code = {kind.exit_code: kind for kind in reversed(tuple(kinds))}
        for line in reversed(self._written().split("\n")):
            found = LINE.fullmatch(line.removeprefix(ERROR)) if line.startswith(ERROR) else None
            if found is not None and int(found[1]) in by_code:
                return by_code[int(found[1])](found[2], found[3])
        return None

    def _written(self) -> str:
        size = os.fstat(self._log).st_size
        return os.pread(self._log, MOST_BYTES, max(0, size - MOST_BYTES)).decode("utf-8", "replace")

    def close(self) -> None:
        """Let go of the log; the process has ended."""
        os.close(self._log)


def command(module: str, order: Mapping[str, Any], blocked: Iterable[int] = ()) -> list[str]:
    """Return the command line of the process."""
    # Blocked before anything is imported: a library's threads have the mask of who started them.
    mask = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {sorted(map(int, blocked))})"
    code = f"{mask}\nfrom {module} import main\nmain()"
    return [sys.executable, "-P", "-c", code, json.dumps(order)]


def _without_working_directory(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return ``environment`` with a PYTHONPATH without empty entries: each of them would be the working directory."""
    places = environment.get("PYTHONPATH", "").split(os.pathsep)
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, places))}


def cut_log() -> None:
    """Cut this process' log, its standard error, if it is too long; its writer calls this again and again."""
    size = os.fstat(2).st_size
    if size > MOST_BYTES and os.readlink("/proc/self/fd/2").startswith(f"/memfd:{LOG}"):
        end = os.pread(2, KEPT_BYTES, size - KEPT_BYTES)
        os.ftruncate(2, 0)
        os.write(2, end)


def end_process(code: int, error: DvgwmError | None = None) -> None:
    """End this process with ``code``, without waiting for a library's threads; ``error`` is written for its parent."""
    if error is not None:
        os.write(2, f"\n{ERROR}{error.line}\n".encode("utf-8", "backslashreplace"))
    os._exit(code)


def catchable_signals() -> set[int]:
    """Return the numbers of all catchable signals; a crash of its own is not heard, but ends it."""
    return {int(number) for number in signal.valid_signals()} - {signal.SIGKILL, signal.SIGSTOP}
