"""The two cameras of the scene: one beside the table, one at the wrist."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Vector3 = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera at ``at_m`` that looks ``toward_m`` with a level horizon and a vertical field of view."""

    name: str
    at_m: Vector3
    toward_m: Vector3
    fovy_deg: float

    @property
    def mjcf(self) -> str:
        """The camera's MJCF element, in the frame of the body that it is put into."""
        at, axes = (" ".join(f"{number:.9g}" for number in row) for row in (self.at_m, self._axes()))
        return f'<camera name="{self.name}" pos="{at}" xyaxes="{axes}" fovy="{self.fovy_deg}"/>'

    def _axes(self) -> Sequence[float]:
        forward = np.subtract(self.toward_m, self.at_m)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        up = np.cross(right, forward)
        return [*map(float, right / np.linalg.norm(right)), *map(float, up / np.linalg.norm(up))]


SCENE_CAMERA = Camera("scene", (0.80, -0.26, 0.56), (0.325, 0.0, 0.05), 31.0)
"""In front of the robot and to its right: the workspace fills the image and the gripper covers little of it."""

WRIST_CAMERA = Camera("wrist", (-0.065, 0.0, 0.045), (0.02, 0.0, -0.025), 62.0)
"""In the hand's frame, below the palm and behind the fingers."""

CAMERAS = (SCENE_CAMERA.name, WRIST_CAMERA.name)
