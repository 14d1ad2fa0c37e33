"""Entry points of installed packages, by group and name: each found once, every failure of loading told."""

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import ConfigError, DvgwmError


def names(group: str) -> tuple[str, ...]:
    """Return the names registered under ``dvgwm.<group>``; raises `ConfigError` where packages cannot be read."""
    return tuple(sorted({entry.name for entry in _registered(group)}))


def find(group: str, name: str) -> EntryPoint:
    """Return the entry point ``name`` of ``dvgwm.<group>``.

    Raises `ConfigError`: it lists the known names if there is none, or the packages if several register the name.
    """
    found = list(dict.fromkeys(entry for entry in _registered(group) if entry.name == name))
    if not found:
        known = ", ".join(names(group)) or "none: is dvgwm installed?"
        raise ConfigError(f"{_kind(group)}_UNKNOWN", f"no {group} entry called {name!r}; known: {known}")
    if len(found) > 1:
        packages = " and ".join(f"{package(entry)} ({entry.value})" for entry in found)
        raise ConfigError(
            f"{_kind(group)}_TWICE", f"wanted one {group} entry called {name!r}, got those of {packages}; uninstall one"
        )
    return found[0]


def load(group: str, name: str) -> Any:
    """Return the object behind the entry point ``name`` of ``dvgwm.<group>``.

    Raises as `find`, and `ConfigError` if it needs a missing library, or its import fails in any other way.
    """
    entry = find(group, name)
    try:
        return entry.load()
    except DvgwmError:
        raise
    except ImportError as error:
        raise ConfigError(
            f"{_kind(group)}_MISSING", f"{name} needs a library that is not installed ({error})"
        ) from error
    except BaseException as error:  # a package of somebody else's may do anything where it is imported
        raise broken(group, entry, f"cannot be loaded: {type(error).__name__}: {error}") from error


def broken(group: str, entry: EntryPoint, why: str) -> ConfigError:
    """Return the error of a useless entry point, with its package."""
    return ConfigError(
        f"{_kind(group)}_BROKEN", f"{entry.name} of {package(entry)} ({entry.value}) {why}; mend or uninstall it"
    )


def package(entry: EntryPoint) -> str:
    """Return name, version and place of the package of ``entry``."""
    dist = entry.dist
    return "an unknown package" if dist is None else f"{dist.name} {dist.version} in {dist.locate_file('')}"


def _registered(group: str) -> Sequence[EntryPoint]:
    try:
        return tuple(entry_points(group=f"dvgwm.{group}"))
    except Exception as error:  # metadata that somebody edited
        raise ConfigError(
            "PACKAGES",
            f"the metadata of installed packages cannot be read: {type(error).__name__}: {error}; `pip check` may name one",
        ) from error


def _kind(group: str) -> str:
    return group.upper().rstrip("S")
