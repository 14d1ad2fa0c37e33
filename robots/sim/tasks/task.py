"""What a tabletop task is: a seeded layout, the sentence that names its goal, and a test of the goal on the scene's state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import hypot

import numpy as np

from dvgwm.runtime.types import DoubleArray

from ..props import Pose, Poses

Positions = Mapping[str, DoubleArray]
"""Body names to float64 [3] positions in metres, base frame."""

MOVED_M = 0.02
ATTEMPTS = 10_000
X_RANGE_M = (0.25, 0.42)
Y_RANGE_M = (-0.12, 0.12)


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of tabletop task.

    ``template`` becomes the instruction with one of ``targets`` put in; ``movable`` names the bodies that can move.
    ``arrange`` draws a layout that suits every target, ``bodies`` gives its MJCF text, ``reached`` tests the goal from
    (positions at the start, positions now, target). ``with_brush``: the gripper holds a brush.
    """

    name: str
    template: str
    targets: tuple[str, ...]
    movable: tuple[str, ...]
    arrange: Callable[[np.random.Generator], Poses]
    bodies: Callable[[Poses], str]
    reached: Callable[[Positions, Positions, str], bool]
    with_brush: bool = False

    def instruction(self, target: str) -> str:
        """Return the sentence that asks for ``target``."""
        return self.template.format(target)

    def layout(self, seed: int, target: str | None = None) -> "Layout":
        """Return the layout of ``seed``; the same for every target, which ``seed`` draws if none is named."""
        places, choice = (np.random.default_rng((seed, stream)) for stream in (0, 1))
        drawn = self.targets[int(choice.integers(len(self.targets)))]
        return Layout(self, target or drawn, self.arrange(places))


@dataclass(frozen=True, slots=True)
class Layout:
    """A task with everything in its place and one goal."""

    task: Task
    target: str
    poses: Poses

    @property
    def instruction(self) -> str:
        """The sentence that names this layout's goal."""
        return self.task.instruction(self.target)


def moved_bodies(start: Positions, now: Positions, movable: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the bodies that were displaced by more than 2 cm."""
    return tuple(name for name in movable if float(np.linalg.norm(now[name] - start[name])) > MOVED_M)


def within(poses: Poses, center: str, reach_m: float) -> bool:
    """Return whether everything is at most ``reach_m`` from ``center``."""
    return all(hypot(pose.x_m - poses[center].x_m, pose.y_m - poses[center].y_m) <= reach_m for pose in poses.values())


def scatter(
    random: np.random.Generator, radii_m: Mapping[str, float], turn_rad: float, accept: Callable[[Poses], bool]
) -> Poses:
    """Return random poses in the workspace, discs of ``radii_m`` apart from each other, that ``accept`` agrees to."""
    names = tuple(radii_m)
    apart = np.array([[radii_m[a] + radii_m[b] for b in names] for a in names]) * (1.0 - np.eye(len(names)))
    for _ in range(ATTEMPTS):
        points = random.uniform((X_RANGE_M[0], Y_RANGE_M[0]), (X_RANGE_M[1], Y_RANGE_M[1]), (len(names), 2))
        turns = random.uniform(-turn_rad, turn_rad, len(names))
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
        if (gaps < apart).any():
            continue
        poses = {name: Pose(float(x), float(y), float(t)) for name, (x, y), t in zip(names, points, turns, strict=True)}
        if accept(poses):
            return poses
    raise AssertionError(f"no room for {', '.join(names)} in {ATTEMPTS} draws: the radii are too large")
