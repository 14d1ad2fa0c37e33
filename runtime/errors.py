"""Every failure dvgwm can name, each with its stable exit code and its own log code.

A message says what was wanted, what came and what to do, on one line. The command line prints it as
``E<exit code> <LOG_CODE> <message>`` on the first line of standard error.
"""

import re
from typing import ClassVar

LINE = re.compile(r"E(\d+) ([A-Z0-9_]+) (.+)")
LONGEST_LINE = 2000
"""Characters of an error's one line: a message may quote what came, however long that is."""


class DvgwmError(Exception):
    """A failure with a stable exit code (``exit_code``) and log code (``log_code``)."""

    exit_code: ClassVar[int] = 70

    def __init_subclass__(cls, exit_code: int) -> None:
        cls.exit_code = exit_code

    def __init__(self, log_code: str, message: str) -> None:
        super().__init__(message)
        self.log_code = log_code

    @property
    def line(self) -> str:
        """The one line for standard error and the event log."""
        return shortened(printable(f"E{self.exit_code} {self.log_code} {' '.join(str(self).split())}"))


def shortened(line: str) -> str:
    """Return ``line``, cut off at `LONGEST_LINE` characters."""
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 4]} ..."


def printable(text: str) -> str:
    """Return ``text`` with escapes in place of control characters, direction marks and stray bytes."""
    return "".join(part if part.isprintable() else ascii(part)[1:-1] for part in text)


class ConfigError(DvgwmError, ValueError, exit_code=2):
    """A command-line value, setting or instruction that cannot be used."""


class ShapeError(DvgwmError, ValueError, exit_code=32):
    """A tensor that does not match the spec it was exported with."""


class OutputError(DvgwmError, ArithmeticError, exit_code=32):
    """A stage gave a value that is not finite."""


class EngineMemoryError(DvgwmError, MemoryError, exit_code=30):
    """An engine wants more memory than there is."""


class EngineLostError(DvgwmError, RuntimeError, exit_code=31):
    """An engine failed, or took its process down with it."""


class BundleMissingError(DvgwmError, FileNotFoundError, exit_code=10):
    """A bundle, or a file that its manifest names, is not there."""


class BundleCorruptError(DvgwmError, ValueError, exit_code=11):
    """A bundle file whose bytes differ from what its manifest states."""


class BundleIncompatibleError(DvgwmError, ValueError, exit_code=12):
    """A sound bundle that this machine or this version cannot run."""


class BundleUntrustedError(DvgwmError, PermissionError, exit_code=13):
    """A bundle that reaches outside its directory or carries executable content."""


class CameraLostError(DvgwmError, ConnectionError, exit_code=20):
    """A camera or recording that gives no frames."""


class CameraMismatchError(DvgwmError, ValueError, exit_code=21):
    """A frame of another size, type or layout than the bundle was built for."""


class DeadlineError(DvgwmError, TimeoutError, exit_code=33):
    """Plans that come too late to be played, again and again."""


class RobotCommunicationError(DvgwmError, ConnectionError, exit_code=40):
    """The robot does not answer, or is held by another runtime."""


class RobotStopError(DvgwmError, RuntimeError, exit_code=41):
    """The robot has stopped itself: a protective stop, an emergency stop, a fault of its own."""


class GateLatchError(DvgwmError, RuntimeError, exit_code=42):
    """The safety gate stopped the arm and holds it until a human re-arms."""


class RecordingError(DvgwmError, OSError, exit_code=50):
    """A result or recording that cannot be written."""


class InternalError(DvgwmError, RuntimeError, exit_code=70):
    """A fault of dvgwm's own, with no better name."""


class DeclinedPlanError(DvgwmError, exit_code=130):
    """The operator looked at a plan, or was asked to arm the robot, and said no."""


class HungUpRunError(DvgwmError, exit_code=129):
    """The run's terminal went away (SIGHUP)."""


class InterruptedRunError(DvgwmError, exit_code=130):
    """The operator stopped the run (Ctrl-C)."""


class QuitRunError(DvgwmError, exit_code=131):
    """The operator told the run to quit (SIGQUIT)."""


class TerminatedRunError(DvgwmError, exit_code=143):
    """Something else stopped the run (SIGTERM)."""
