"""A driver's settings from a lab's file, read strictly."""

from dataclasses import fields
from typing import Any, TypeVar

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.strict import strict

from .spec import DriveOptions

T = TypeVar("T")


def settings(options: DriveOptions, kind: type[T]) -> T:
    """Return what the settings say as a ``kind``; raises `ConfigError` for a key that it has not, or another type."""
    facts: Any = kind
    try:
        return strict(dict(options.settings), kind)
    except ConfigError:
        raise
    except ValueError as error:
        names = ", ".join(entry.name for entry in fields(facts))
        raise ConfigError("ARM_SETTINGS", f"the robot's settings: {error}; there are {names}") from error
