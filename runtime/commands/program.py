"""Runs a command line to its exit code; any error is one line on standard error."""

import locale
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import click
from click.shell_completion import get_completion_class, shell_complete

from ..errors import ConfigError, DvgwmError, EngineMemoryError, InternalError, RecordingError, shortened
from .streams import open_streams
from .supervisor import STOPS

UNSUGGESTED = ("--live", "--unfamiliar")
"""Options that are never suggested for one that does not exist."""


def run_program(name: str, group: click.Group) -> int:
    """Run the command line ``group``, called ``name``, and return its exit code (`errors`).

    A signal's exception passes through, for `supervisor.supervise` to tell.
    """

    def run() -> None:
        if said := os.environ.get(_completion(name)):  # a shell asks, and not a person
            raise click.exceptions.Exit(shell_complete(group, {}, name, _completion(name), said))
        # Not click's own `main`: it writes to standard error before our one line.
        with group.make_context(name, sys.argv[1:]) as context:
            try:
                group.invoke(context)
            except SystemExit as ended:
                if ended.code in {128 + number for number in STOPS}:
                    raise
                raise InternalError(
                    "ENDED", f"a library ended the command by sys.exit({ended.code!r}) before it was done"
                ) from ended

    return exit_code(name, run)


def add_completion(group: click.Group, name: str) -> None:
    """Add a command `completion`, which prints a shell's script for the command line ``group``, called ``name``."""

    @group.command(epilog=f'Bash: eval "$({name} completion bash)" in ~/.bashrc; zsh the same; fish: ... | source')
    @click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
    def completion(shell: str) -> None:
        """Print a script for SHELL: with it, it completes commands, options, robots, backends and paths."""
        kind = get_completion_class(shell)
        assert kind is not None
        sys.stdout.write(f"{kind(group, {}, name, _completion(name)).source()}\n")


def _completion(name: str) -> str:
    """Return the variable by which a shell asks the command line ``name`` for completions."""
    return f"_{name.replace('-', '_').upper()}_COMPLETE"


def exit_code(name: str, run: Callable[[], None]) -> int:
    """Return the exit code of ``run``; its error is told, and standard output is flushed."""
    open_streams()
    code = _run(name, run)
    try:
        sys.stdout.flush()
    except RecordingError as error:
        return code or tell(error)
    return code


def _run(name: str, run: Callable[[], None]) -> int:
    try:
        _check_text(sys.argv[1:])
        run()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption):  # a slip of the fingers is not to move an arm
            near = [each for each in error.possibilities or () if each not in UNSUGGESTED]
            error = click.NoSuchOption(error.option_name, possibilities=near, ctx=error.ctx)
        return tell(ConfigError("USAGE", f"{error.format_message()} See `{name} --help`"))
    except DvgwmError as error:
        return tell(error)
    except OSError as error:
        # Nobody's fault here: a place that is full, gone or not ours.
        where = f": {error.filename}" if error.filename else ""
        return tell(RecordingError("FILE", f"{error.strerror or error}{where}; check the place and its permissions"))
    except MemoryError as error:
        return tell(
            EngineMemoryError("MEMORY", f"out of memory ({error or 'no more was given'}); use a smaller bundle")
        )
    except Exception as error:
        return tell(InternalError("INTERNAL", f"{type(error).__name__}: {error}; run again with --debug and report it"))
    return 0


def tell(error: DvgwmError) -> int:
    """Write ``error`` as one line to standard error, with --debug its traceback too, and return its exit code."""
    # What the stream's encoding lacks is escaped, and longer then.
    line = error.line.encode(sys.stderr.encoding, "backslashreplace").decode(sys.stderr.encoding)
    sys.stderr.write(f"{shortened(line)}\n")
    if "--debug" in sys.argv:
        traceback.print_exc()
    return error.exit_code


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator for ``options``, in this order, shared by several commands."""

    def add(command: Any) -> Any:
        return reduce(lambda added, option: option(added), reversed(options), command)

    return add


def _check_text(arguments: Sequence[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise ConfigError("ARGUMENT_TEXT", _misread(os.fsencode(argument))) from None


def _misread(argument: bytes) -> str:
    """Return why an argument is no text: its bytes, or the locale."""
    try:
        text = argument.decode()
    except UnicodeDecodeError:
        return f"wanted arguments in UTF-8, got {argument!r}; rename the file or link to it"
    encoding = locale.getencoding()
    return f"{text!r} is UTF-8, and the locale reads {encoding}: set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
