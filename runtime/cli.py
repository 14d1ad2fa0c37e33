"""`dvgwm-runtime`: puts the command line under a supervisor before anything of it is imported."""

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes a quarter of the time in which Ctrl-C finds nobody
    from typing import Any, NoReturn


def main() -> "NoReturn":
    """Run the command line and exit."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until `supervise` hears it
    from .commands.supervisor import supervise

    supervise(_run, "no unfinished result was kept")


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
