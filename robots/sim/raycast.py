"""Images of a MuJoCo scene by casting one ray per pixel: flat colours and diffuse light, no GL library needed."""

from typing import Any

import numpy as np

from dvgwm.runtime.types import DoubleArray, ImageArray

from .library import mujoco


class RayCaster:
    """Renders the cameras of one model at one size; ``data`` has to be forwarded before."""

    name = "ray casting"

    def __init__(self, model: Any, height_px: int, width_px: int) -> None:
        self._model = model
        self._shape = (height_px, width_px)
        self._background = np.zeros(3)

    def render(self, data: Any, camera: str) -> ImageArray:
        """Return the picture of ``camera``, uint8 H W 3."""
        height, width = self._shape
        index = self._model.camera(camera).id
        local = pixel_rays(height, width, float(self._model.cam_fovy[index]))
        rays = np.ascontiguousarray(local @ data.cam_xmat[index].reshape(3, 3).T)
        geoms, normals = _cast(self._model, data, data.cam_xpos[index], rays)
        light = _light(self._model, data, -data.cam_xmat[index].reshape(3, 3)[:, 2], normals)
        colours = np.where(geoms[:, None] >= 0, self._model.geom_rgba[geoms, :3] * light, self._background)
        image: ImageArray = np.rint(np.clip(colours, 0.0, 1.0) * 255.0).astype(np.uint8).reshape(height, width, 3)
        return image

    def close(self) -> None:
        """Nothing to let go of."""


def pixel_rays(height_px: int, width_px: int, fovy_deg: float) -> DoubleArray:
    """Return unit rays through the pixels' centres, float64 [H*W, 3], in the camera's frame (it looks along -z)."""
    focal_px = height_px / 2 / np.tan(np.radians(fovy_deg) / 2)
    u, v = np.meshgrid(np.arange(width_px) - width_px / 2 + 0.5, np.arange(height_px) - height_px / 2 + 0.5)
    rays = np.stack((u / focal_px, -v / focal_px, -np.ones_like(u)), axis=-1).reshape(-1, 3)
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))


def _cast(model: Any, data: Any, eye: DoubleArray, rays: DoubleArray) -> tuple[Any, DoubleArray]:
    """Return the geom hit by each ray (-1: none) and the surface normal there, facing the eye."""
    count, far_m = len(rays), 1e10
    geoms, distances, flat = np.empty(count, np.int32), np.empty(count), np.zeros(rays.size)
    mujoco.mj_multiRay(model, data, eye, rays.ravel(), None, 1, -1, geoms, distances, flat, count, far_m)
    normals = flat.reshape(-1, 3)
    away = np.einsum("nd,nd->n", normals, rays) > 0.0
    return geoms, np.where(away[:, None], -normals, normals)


def _light(model: Any, data: Any, forward: DoubleArray, normals: DoubleArray) -> DoubleArray:
    """Return the colour of the light from each point, float64 [N, 3]: ambient plus Lambert terms.

    The headlight shines along ``forward``, the camera's axis, from everywhere, as MuJoCo's own does.
    """
    lamp = model.vis.headlight
    light = lamp.ambient + np.clip(-normals @ forward, 0.0, None)[:, None] * lamp.diffuse
    for index in range(model.nlight):
        facing = np.clip(-normals @ data.light_xdir[index], 0.0, None)
        light += model.light_ambient[index] + facing[:, None] * model.light_diffuse[index]
    return np.asarray(light, np.float64)
