"""Forward kinematics and damped-least-squares inverse kinematics of a serial arm, with rotations as rotation vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from dvgwm.runtime.types import DoubleArray

from .chain import Origin

DAMPING = 1e-3
MAX_ITERATIONS = 100
MAX_STEP_RAD = 0.3
REACHED_M = 1e-3
REACHED_RAD = 1e-2
CONVERGED = 1e-7
"""Size of the pose error (metres and radians) at which iterating ends: far below `REACHED_M`, so that paths stay smooth."""

HALF_TURN_MARGIN_RAD = 1e-3


def norm(vector: DoubleArray) -> float:
    """Return the Euclidean length of a vector; `np.linalg.norm` takes five times as long for one so short."""
    return sqrt(vector @ vector)


def axis_rotation(axis: int, angle_rad: float) -> DoubleArray:
    """Return the 3 x 3 rotation by ``angle_rad`` about coordinate axis 0, 1 or 2."""
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    rotation = np.eye(3)
    rotation[i, i] = rotation[j, j] = np.cos(angle_rad)
    rotation[j, i] = np.sin(angle_rad)
    rotation[i, j] = -rotation[j, i]
    return rotation


def rotation_matrix(vector: DoubleArray) -> DoubleArray:
    """Return the 3 x 3 rotation of a rotation vector (Rodrigues' formula)."""
    angle = norm(vector)
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross))


def rotation_vector(rotation: DoubleArray) -> DoubleArray:
    """Return the rotation vector of a 3 x 3 rotation; its length is at most pi."""
    twice_sine_axis = np.array(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    twice_sine = norm(twice_sine_axis)
    angle = float(np.arctan2(twice_sine, np.trace(rotation) - 1.0))
    if angle < 1e-8:
        return np.asarray(twice_sine_axis / 2.0)
    if np.pi - angle > HALF_TURN_MARGIN_RAD:
        return np.asarray(twice_sine_axis * (angle / twice_sine))
    # Near a half turn the antisymmetric part vanishes: the axis is the largest column of the symmetric part.
    outer = (rotation + rotation.T) / 2.0 - np.cos(angle) * np.eye(3)
    column = outer[:, int(np.argmax(np.diag(outer)))]
    axis = column / norm(column)
    return np.asarray(axis * angle * (-1.0 if axis @ twice_sine_axis < 0.0 else 1.0))


def transform(position_m: Sequence[float], rotation: DoubleArray) -> DoubleArray:
    """Return the 4 x 4 homogeneous transform of a position and a 3 x 3 rotation."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, position_m
    return matrix


def origin_transform(origin: Origin) -> DoubleArray:
    """Return the 4 x 4 transform of a joint's origin (URDF convention: roll, pitch, yaw about fixed axes)."""
    position_m, (roll, pitch, yaw) = origin
    return transform(position_m, axis_rotation(2, yaw) @ axis_rotation(1, pitch) @ axis_rotation(0, roll))


@dataclass(frozen=True, slots=True, eq=False)
class SerialKinematics:
    """A serial arm of revolute joints about z: implements `dvgwm.robots.spec.Kinematics`.

    ``origins`` is N x 4 x 4 (each joint in its parent's frame), ``tool`` 4 x 4 (the tool in the last joint's frame),
    ``lower`` and ``upper`` are the N joint limits in radians. Joint vectors may carry the gripper behind the N joints;
    it is not looked at.
    """

    origins: DoubleArray
    tool: DoubleArray
    lower: DoubleArray
    upper: DoubleArray

    def forward(self, joints: DoubleArray) -> DoubleArray:
        """Return the tool's pose, float64 [6]: x, y, z in metres and a rotation vector, in the base frame."""
        _, tool = self._frames(joints)
        return np.concatenate((tool[:3, 3], rotation_vector(tool[:3, :3])))

    def inverse(self, pose: DoubleArray, near: DoubleArray) -> tuple[DoubleArray, bool]:
        """Return N joints near ``near`` whose tool pose is closest to ``pose``, and whether it is within 1 mm and .01 rad.

        Damped least squares (Nakamura and Hanafusa 1986; Wampler 1986), every iterate inside the joint limits.
        """
        joints = np.clip(np.asarray(near[: len(self.lower)], np.float64), self.lower, self.upper)
        target = rotation_matrix(np.asarray(pose[3:6], np.float64))
        for left in reversed(range(MAX_ITERATIONS + 1)):
            frames, tool = self._frames(joints)
            error = np.concatenate((pose[:3] - tool[:3, 3], rotation_vector(target @ tool[:3, :3].T)))
            if left == 0 or norm(error) < CONVERGED:
                break
            moved = np.clip(joints + damped_step(jacobian(frames, tool), error), self.lower, self.upper)
            if np.array_equal(moved, joints):
                break
            joints = moved
        return joints, norm(error[:3]) < REACHED_M and norm(error[3:]) < REACHED_RAD

    def _frames(self, joints: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
        turned = self.origins.copy()
        x, y = self.origins[:, :, 0], self.origins[:, :, 1]
        cosine, sine = np.cos(joints[: len(x)])[:, None], np.sin(joints[: len(x)])[:, None]
        turned[:, :, 0], turned[:, :, 1] = cosine * x + sine * y, cosine * y - sine * x
        frames = np.empty_like(turned)
        frames[0] = turned[0]
        for index in range(1, len(turned)):
            np.matmul(frames[index - 1], turned[index], out=frames[index])
        return frames, frames[-1] @ self.tool


def jacobian(frames: DoubleArray, tool: DoubleArray) -> DoubleArray:
    """Return the geometric Jacobian, 6 x N, of the tool for joint frames N x 4 x 4 that turn about their z axes."""
    ax, ay, az = frames[:, :3, 2].T
    x, y, z = (tool[:3, 3] - frames[:, :3, 3]).T
    # The cross product by hand: numpy's takes as long as everything else here.
    return np.stack((ay * z - az * y, az * x - ax * z, ax * y - ay * x, ax, ay, az))


def damped_step(matrix: DoubleArray, error: DoubleArray) -> DoubleArray:
    """Return the damped-least-squares joint step for a 6 x N Jacobian, at most `MAX_STEP_RAD` in any joint."""
    step = matrix.T @ np.linalg.solve(matrix @ matrix.T + DAMPING**2 * np.eye(len(error)), error)
    return np.asarray(step * min(1.0, MAX_STEP_RAD / max(float(np.abs(step).max()), 1e-12)))


def serial_kinematics(
    origins: Sequence[Origin], tool: DoubleArray, lower: Sequence[float], upper: Sequence[float]
) -> SerialKinematics:
    """Return the kinematics of a chain given by joint origins, the tool's 4 x 4 transform and joint limits in radians."""
    frames = np.stack([origin_transform(origin) for origin in origins])
    return SerialKinematics(frames, tool, np.array(lower, np.float64), np.array(upper, np.float64))
