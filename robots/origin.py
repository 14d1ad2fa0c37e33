"""Where a robot that is loaded by name comes from, so that two processes can tell whether they have the same one."""

import hashlib
import importlib
import os
from collections.abc import Mapping
from dataclasses import replace

from dvgwm.runtime import entries
from dvgwm.runtime.errors import ConfigError

from .spec import RobotSpec


def load(name: str) -> RobotSpec:
    """Return the robot that is registered as ``name``, called so; raises as `entries.load`, and `ConfigError` for no robot."""
    spec = entries.load("robots", name)
    if not isinstance(spec, RobotSpec):
        raise entries.broken("robots", entries.find("robots", name), f"is no RobotSpec but a {type(spec).__name__}")
    # By its name motion's process finds the same one: that of an arm which it was made from would be another robot.
    return replace(spec, arm=replace(spec.arm, name=name))


def origin(name: str) -> Mapping[str, str]:
    """Return which package, file and limits the robot called ``name`` has in this process; raises as `load`."""
    spec, entry = load(name), entries.find("robots", name)
    facts = (spec.name, spec.arm.joint_names, spec.arm.period_s, spec.arm.limits)
    module = importlib.import_module(entry.module)  # imported already
    return {
        "package": entries.package(entry),
        "object": entry.value,
        "file": os.path.realpath(module.__file__ or ""),
        "limits": hashlib.sha256(repr(facts).encode()).hexdigest()[:16],
    }


def check_origin(name: str, wanted: Mapping[str, str]) -> None:
    """Raise `ConfigError` where the robot called ``name`` differs here from ``wanted``, the origin in another process."""
    found = origin(name)
    if differ := [f"{fact} {found[fact]}, not {wanted.get(fact)}" for fact in found if found[fact] != wanted.get(fact)]:
        raise ConfigError(
            "ROBOT_ORIGIN",
            f"the motion process found another robot {name!r} than who plans: {'; '.join(differ)}; look for a package or "
            "folder of that name in the working directory, and on PYTHONPATH",
        )
