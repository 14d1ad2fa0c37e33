"""Runs a command line to its exit code: every way in which it may end is told in one line on standard error."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import reduce
from types import FrameType
from typing import Any, NoReturn

import click

from ..errors import ConfigError, DvgwmError, InternalError, InterruptedRunError, RecordingError, TerminatedRunError

READER_GONE = RecordingError("OUTPUT_PIPE", "nobody reads standard output any more; files already written stay")
"""What rich ends the program for by itself, with SystemExit."""


def run_program(name: str, group: click.Group, kept: str) -> NoReturn:
    """Run the command line ``group`` as ``name`` and exit with the code of `errors` that fits.

    ``kept`` says what is left where it is stopped by a key or a signal.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # Not click's own `main`: it writes to standard error before our one line.
        with group.make_context(name, sys.argv[1:]) as context:
            group.invoke(context)
        code = 0
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except SystemExit as ended:
        terminated = TerminatedRunError("TERMINATED", f"stopped by a signal; {kept}")
        code = _tell(terminated if ended.code == terminated.exit_code else READER_GONE)
    except KeyboardInterrupt:
        code = _tell(InterruptedRunError("INTERRUPTED", f"stopped by the operator; {kept}"))
    except click.ClickException as error:
        code = _tell(ConfigError("USAGE", f"{error.format_message()} See `{name} --help`"))
    except DvgwmError as error:
        code = _tell(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter fails again as it exits
        code = _tell(READER_GONE)
    except Exception as error:
        code = _tell(
            InternalError("INTERNAL", f"{type(error).__name__}: {error}; run again with --debug and report it")
        )
    sys.exit(code)


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what adds ``options`` to a command, in this order, for commands that share them."""

    def add(command: Any) -> Any:
        return reduce(lambda added, option: option(added), reversed(options), command)

    return add


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    # Not an Exception: no part that turns a library's errors into ours may take this for one of them.
    raise SystemExit(128 + number)


def _tell(error: DvgwmError) -> int:
    click.echo(error.line, err=True)
    if "--debug" in sys.argv:
        traceback.print_exc()
    return error.exit_code
