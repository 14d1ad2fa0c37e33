"""Chooses how images are made: EGL, else OSMesa, else ray casting. A child process tries them, so that none can crash us."""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.types import ImageArray

from .raycast import RayCaster

GL_LIBRARIES = ("egl", "osmesa")
RAY_CASTING = RayCaster.name
PROBE_TIMEOUT_S = 60.0
SWITCHED_OFF = ("disable", "disabled", "off", "false", "0")

PROBE = """
import sys, mujoco, importlib
window = importlib.import_module("mujoco." + sys.argv[1]).GLContext(8, 8)
window.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100).free()
window.free()
"""


class Renderer(Protocol):
    """Turns a scene's state into camera images."""

    @property
    def name(self) -> str:
        """``egl``, ``osmesa`` or ``ray casting``."""

    def render(self, data: Any, camera: str) -> ImageArray:
        """Return what ``camera`` sees, uint8 H W 3."""

    def close(self) -> None:
        """Let go of the GL context."""


@cache
def works(library: str) -> bool:
    """Return whether a GL library draws here; a child process tries it once per process."""
    # The child takes over PYOPENGL_PLATFORM: what an earlier import fixed in this process it cannot change either.
    environment = {**os.environ, "MUJOCO_GL": library}
    command = [sys.executable, "-P", "-c", PROBE, library]
    try:
        ended = subprocess.run(  # noqa: S603 (a fixed program of our own)
            command, env=environment, capture_output=True, timeout=PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0


def choose(environment: Mapping[str, str]) -> str:
    """Return the renderer to use: what ``MUJOCO_GL`` names if it is set to one of ours, else the first that works."""
    requested = environment.get("MUJOCO_GL", "").strip().lower()
    if requested in SWITCHED_OFF:
        return RAY_CASTING
    if requested in GL_LIBRARIES:
        return requested
    return next((library for library in GL_LIBRARIES if works(library)), RAY_CASTING)


def open_renderer(model: Any, height_px: int, width_px: int, renderer: str | None = None) -> Renderer:
    """Return a renderer for ``model``; ``renderer`` forces ``egl``, ``osmesa`` or ``ray casting``.

    Raises `ConfigError` if a renderer that was asked for does not work on this machine.
    """
    chosen = renderer or choose(os.environ)
    if chosen == RAY_CASTING:
        return RayCaster(model, height_px, width_px)
    if chosen not in GL_LIBRARIES:
        raise ConfigError("RENDERER", f"wanted one of {', '.join((*GL_LIBRARIES, RAY_CASTING))}, got {chosen!r}")
    if not works(chosen):
        raise ConfigError(
            "RENDERER", f"{chosen} was asked for and does not work here; install it or unset MUJOCO_GL for another way"
        )
    from .opengl import GlRenderer

    return GlRenderer(chosen, model, height_px, width_px)
