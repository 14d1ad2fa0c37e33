"""`dvgwm-runtime`: puts the command line under a supervisor before anything of it is imported."""

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes a quarter of the time in which Ctrl-C finds nobody
    from typing import Any, NoReturn


def main() -> "NoReturn":
    """Run the command line and exit."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until `supervise` hears it
    _leave_working_directory()
    from .commands.supervisor import supervise

    supervise(_run, "no unfinished result was kept")


def _leave_working_directory() -> None:
    """Take off the import path what `python -m` and `-c` put first: modules of one's own would replace installed ones."""
    try:
        here = os.getcwd()
    except OSError:  # it was removed
        here = ""
    if not sys.flags.safe_path and sys.path[0] in ("", here):
        del sys.path[0]


def _run() -> int:
    from .commands.line import cli
    from .commands.program import run_program

    return run_program("dvgwm-runtime", cli)


def __getattr__(name: str) -> "Any":
    # The commands as click knows them, for those who run them in their own process.
    if name != "cli":
        raise AttributeError(name)
    from .commands.line import cli

    return cli
