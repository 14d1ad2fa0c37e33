"""MuJoCo, imported here alone: an obstacle is told before the import can fail."""

import os
from importlib.util import find_spec
from typing import Any

from dvgwm.runtime.errors import ConfigError

KNOWN = (
    "",
    "0",
    "1",
    "on",
    "off",
    "true",
    "false",
    "enable",
    "enabled",
    "disable",
    "disabled",
    "egl",
    "osmesa",
    "glfw",
)
"""Values of ``MUJOCO_GL`` with which MuJoCo can be imported on Linux."""


def _imported() -> Any:
    """Return MuJoCo; raises `ConfigError` if it is not installed, or ``MUJOCO_GL`` hinders it."""
    if find_spec("mujoco") is None:
        raise ConfigError(
            "SIM_MISSING", "the simulated arm wants MuJoCo, which is not installed: pip install 'dvgwm[sim]'"
        )
    said = os.environ.get("MUJOCO_GL", "")
    if said.strip().lower() not in KNOWN:
        raise ConfigError(
            "RENDERER", f"MUJOCO_GL is {said!r}; wanted egl, osmesa or off on Linux; unset it for the first that works"
        )
    import mujoco

    return mujoco


mujoco = _imported()
