"""Every failure dvgwm can name, each with its stable exit code and its own log code.

A message says what was wanted, what came and what to do, on one line. The command line prints it as
``E<exit code> <LOG_CODE> <message>`` on the first line of standard error.
"""

from typing import ClassVar


class DvgwmError(Exception):
    """A failure with a stable exit code (``exit_code``) and log code (``log_code``)."""

    exit_code: ClassVar[int] = 70

    def __init__(self, log_code: str, message: str) -> None:
        super().__init__(message)
        self.log_code = log_code

    @property
    def line(self) -> str:
        """The one line for standard error and the event log."""
        return f"E{self.exit_code} {self.log_code} {' '.join(str(self).split())}"


class ConfigError(DvgwmError, ValueError):
    """A command-line value, setting or instruction that cannot be used."""

    exit_code = 2


class ShapeError(DvgwmError, ValueError):
    """A tensor that does not match the spec it was exported with."""

    exit_code = 32


class OutputError(DvgwmError, ArithmeticError):
    """An engine gave a value that is not finite."""

    exit_code = 32


class BundleMissingError(DvgwmError, FileNotFoundError):
    """A bundle, or a file that its manifest names, is not there."""

    exit_code = 10


class BundleCorruptError(DvgwmError, ValueError):
    """A bundle file whose bytes differ from what its manifest states."""

    exit_code = 11


class BundleIncompatibleError(DvgwmError, ValueError):
    """A sound bundle that this machine or this version cannot run."""

    exit_code = 12


class BundleUntrustedError(DvgwmError, PermissionError):
    """A bundle that reaches outside its directory or carries executable content."""

    exit_code = 13


class CameraLostError(DvgwmError, ConnectionError):
    """A camera or recording that gives no frames."""

    exit_code = 20


class CameraMismatchError(DvgwmError, ValueError):
    """A frame of another size, type or layout than the bundle was built for."""

    exit_code = 21


class RobotCommunicationError(DvgwmError, ConnectionError):
    """The robot does not answer, or is held by another runtime."""

    exit_code = 40


class GateLatchError(DvgwmError, RuntimeError):
    """The safety gate stopped the arm and holds it until a human re-arms."""

    exit_code = 42


class RecordingError(DvgwmError, OSError):
    """A result or recording that cannot be written."""

    exit_code = 50


class InternalError(DvgwmError, RuntimeError):
    """A fault of dvgwm's own, with no better name."""

    exit_code = 70


class InterruptedRunError(DvgwmError):
    """The operator stopped the run (Ctrl-C)."""

    exit_code = 130


class TerminatedRunError(DvgwmError):
    """Something else stopped the run (SIGTERM)."""

    exit_code = 143
