"""Standard output and error as a command writes them: any character, and what becomes of what cannot be written."""

import io
import os
import sys
from typing import Any

from ..errors import RecordingError


class Output(io.TextIOWrapper):
    """Standard output; raises `RecordingError` (50) where it takes nothing: the disk is full, or nobody reads."""

    def write(self, text: str) -> int:
        """Write ``text``."""
        try:
            return super().write(text)
        except OSError as error:
            raise _unwritten(self, error) from None

    def flush(self) -> None:
        """Write what is held back."""
        try:
            super().flush()
        except OSError as error:
            raise _unwritten(self, error) from None


class Errors(io.TextIOWrapper):
    """Standard error; what it does not take is lost, for there is nowhere else to tell of it."""

    def write(self, text: str) -> int:
        """Write ``text``."""
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        try:
            super().flush()
        except OSError:
            _to_nothing(self)


def open_streams() -> None:
    """Put `Output` and `Errors` in the place of this process's streams; what their encoding lacks is escaped."""
    sys.stdout = _as(Output, sys.stdout)
    sys.stderr = _as(Errors, sys.stderr)


def _as(kind: type[io.TextIOWrapper], stream: Any) -> io.TextIOWrapper:
    encoding, lines = stream.encoding, stream.line_buffering
    return kind(stream.detach(), encoding=encoding, errors="backslashreplace", line_buffering=lines)


def _unwritten(stream: io.TextIOWrapper, error: OSError) -> RecordingError:
    _to_nothing(stream)
    return RecordingError(
        "OUTPUT_PRINT",
        f"cannot print to standard output: {error.strerror}; files already written stay, send it elsewhere",
    )


def _to_nothing(stream: io.TextIOWrapper) -> None:
    """Lead ``stream`` to nothing, or the interpreter fails again when it writes the rest as it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
