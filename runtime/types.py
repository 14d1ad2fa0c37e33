"""The values between modules: tensor specs, observations, plans, action chunks, motion's events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import CameraMismatchError, ShapeError

FloatArray: TypeAlias = NDArray[np.float32]
DoubleArray: TypeAlias = NDArray[np.float64]
ImageArray: TypeAlias = NDArray[np.uint8]
Tensor: TypeAlias = Any
"""A backend's own array: numpy for ONNX Runtime, a device tensor elsewhere. It has ``shape`` and ``dtype``."""

BOUNDARY_DTYPES = ("float32", "float16", "uint8", "int32", "int64", "bfloat16")
"""bfloat16, which numpy lacks, is for carried tensors: they never leave the device."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and dtype of one engine input or output; a string in ``shape`` is a size chosen at run time."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in BOUNDARY_DTYPES:
            raise ShapeError("SPEC_DTYPE", f"{self.name}: wanted one of {', '.join(BOUNDARY_DTYPES)}, got {self.dtype}")

    def check(self, tensor: Tensor) -> None:
        """Return if ``tensor`` fits; raise `ShapeError` naming both sides if not."""
        shape = tuple(tensor.shape)
        fits = len(shape) == len(self.shape) and all(
            isinstance(want, str) or want == got for want, got in zip(self.shape, shape, strict=True)
        )
        dtype = str(tensor.dtype).removeprefix("torch.")
        if not fits or dtype != self.dtype:
            raise ShapeError("TENSOR_SPEC", f"{self.name}: wanted {self}, got {dtype}{list(shape)}")

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Observation:
    """The robot's images and joints at one instant.

    ``images`` maps camera names to uint8 H W 3 RGB frames, ``joints`` holds the measured joint positions in radians
    with the gripper opening (0 closed, 1 open) last, ``time_s`` is on the arm's own monotonic clock.
    """

    images: Mapping[str, ImageArray]
    joints: DoubleArray
    time_s: float


@dataclass(frozen=True, slots=True)
class ActionChunk:
    """Actions, each with its time.

    ``actions`` is float64 N x D in the units of the action contract, ``times_s`` float64 N on the arm's clock.
    ``spread`` is how far the policy's samples of each action disagree: their standard deviation, float64 N x D as shares of
    the actions' ranges; None from a policy without samples. ``observed_s`` is the time of their observation, None if
    there was none.
    """

    actions: DoubleArray
    times_s: DoubleArray
    space: str
    spread: DoubleArray | None = None
    observed_s: float | None = None

    def __post_init__(self) -> None:
        if self.actions.ndim != 2 or self.times_s.shape != self.actions.shape[:1]:
            raise ShapeError(
                "CHUNK_SHAPE", f"wanted actions N x D with N times, got {self.actions.shape} and {self.times_s.shape}"
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """An imagined future: uint8 T H W 3 frames, their times after the observation in seconds, and the latents behind them.

    ``times_s`` is None if frames are keyframes without a clock. ``latents`` maps stage outputs to host arrays.
    """

    frames: ImageArray
    times_s: DoubleArray | None
    latents: Mapping[str, FloatArray]
    instruction: str
    seed: int


@dataclass(frozen=True, slots=True)
class ArmEvent:
    """An event of motion for the loop: its log code, the arm's time, and a sentence."""

    log_code: str
    time_s: float
    message: str


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick of motion: the arm's time, the joints as commanded and as measured, and the log code told then, if any."""

    time_s: float
    commanded: tuple[float, ...]
    measured: tuple[float, ...]
    log_code: str | None


@dataclass(frozen=True, slots=True)
class MotionRecord:
    """The newest ticks of an arm's motion, oldest first; joints in radians, a gripper's opening, the last one, as a share."""

    joint_names: tuple[str, ...]
    ticks: tuple[Tick, ...]

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of every joint."""
        return joint_units(self.joint_names)


@dataclass(frozen=True, slots=True)
class PlannedJoints:
    """A robot's joints at the actions of a plan, a row each; and the number out of its reach."""

    robot: str
    names: tuple[str, ...]
    positions: tuple[tuple[float, ...], ...]
    out_of_reach: int

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of every joint."""
        return joint_units(self.names)


def joint_units(names: Sequence[str]) -> tuple[str, ...]:
    """Return the units of an arm's joints: radians, and for the last one, the gripper, its opening of 0 to 1."""
    return (*("rad" for _ in names[1:]), "0..1")


@dataclass(frozen=True, slots=True)
class Check:
    """One condition before an arm moves: the finding, and if it is not fine, the remedy."""

    what: str
    fine: bool
    found: str
    remedy: str = ""


def check_image(image: Any, height: int, width: int, camera: str) -> ImageArray:
    """Return ``image`` as a contiguous uint8 ``height`` x ``width`` x 3 array; raise `CameraMismatchError` otherwise."""
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape != (height, width, 3) or dtype != np.uint8:
        raise CameraMismatchError(
            "CAMERA_FRAME",
            f"camera {camera}: wanted uint8 {height}x{width}x3, got {dtype} {shape}; set the camera to the bundle's size",
        )
    return np.ascontiguousarray(image)
