"""Images of a MuJoCo scene by OpenGL off screen: EGL or OSMesa."""

import weakref
from importlib import import_module
from typing import Any

import numpy as np

from dvgwm.runtime.types import ImageArray

from .library import mujoco

MAX_GEOMS = 500


class GlRenderer:
    """Renders the cameras of one model at one size with the GL library ``name`` (``egl`` or ``osmesa``)."""

    def __init__(self, name: str, model: Any, height_px: int, width_px: int) -> None:
        self.name = name
        self._shape = (height_px, width_px)
        self._model = model
        self._window = import_module(f"mujoco.{name}").GLContext(width_px, height_px)
        self._window.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._option, self._view = mujoco.MjvOption(), mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        # Freed at exit as well: a context that outlives Python's modules prints an exception.
        self._release = weakref.finalize(self, _free, self._window, self._context)

    def render(self, data: Any, camera: str) -> ImageArray:
        """Return the picture of ``camera``, uint8 H W 3."""
        height, width = self._shape
        self._view.fixedcamid = self._model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._view, everything, self._scene)
        image, rectangle = np.empty((height, width, 3), np.uint8), mujoco.MjrRect(0, 0, width, height)
        self._window.make_current()
        mujoco.mjr_render(rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(image, None, rectangle, self._context)
        return np.ascontiguousarray(image[::-1])

    def close(self) -> None:
        """Free the GL context."""
        self._release()


def _free(window: Any, context: Any) -> None:
    window.make_current()
    context.free()
    window.free()
