"""Stack one of three cubes on the yellow block."""

import numpy as np

from ..props import BLOCK_HALF_M, BLUE, CUBE_HALF_M, GREEN, RED, YELLOW, Poses, block, cube
from .task import Positions, Task, scatter, within

CUBES = ("red cube", "green cube", "blue cube")
COLOURS = dict(zip(CUBES, (RED, GREEN, BLUE), strict=True))
BLOCK = "block"
RADII_M = {**dict.fromkeys(CUBES, 0.041), BLOCK: 0.057}
STACKED_M = CUBE_HALF_M + BLOCK_HALF_M[1]
"""How far a cube's centre is above the block's when it stands on it."""

CARRY_M = 0.165


def _arrange(random: np.random.Generator) -> Poses:
    return scatter(random, RADII_M, turn_rad=0.35, accept=lambda poses: within(poses, BLOCK, CARRY_M))


def _bodies(poses: Poses) -> str:
    return block(BLOCK, poses[BLOCK], YELLOW) + "".join(cube(name, poses[name], COLOURS[name]) for name in CUBES)


def _reached(start: Positions, now: Positions, target: str) -> bool:
    offset = now[target] - now[BLOCK]
    return bool(np.linalg.norm(offset[:2]) < 0.025 and abs(offset[2] - STACKED_M) < 0.004)


STACK_CUBE = Task("stack_cube", "stack the {} on the yellow block", CUBES, (*CUBES, BLOCK), _arrange, _bodies, _reached)
