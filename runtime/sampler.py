"""A sampler as rows of coefficients, and one step by one of them.

Each row takes the state ``x`` and a carried history ``h`` one step on, with ``v`` the network's output and ``xi`` noise:
``x <- a x + b v + c h + d xi`` and ``h <- p x + q v``. With guidance ``v = v_u + guidance (v_c - v_u)``. Every sampler that
we know is linear in this way, so one kernel steps them all (`samplers.rows` makes the rows).
"""

from dataclasses import dataclass
from math import inf

import numpy as np

from .errors import InternalError, ShapeError
from .types import FloatArray


@dataclass(frozen=True, slots=True)
class Step:
    """One row; ``time`` is what the network's time input gets.

    With ``clip`` = (limit, a0, b0): ``x0 = clamp(a0 x + b0 v, -limit, limit)``, then ``x <- a x0 + b v``.
    """

    time: float
    a: float
    b: float
    c: float = 0.0
    d: float = 0.0
    p: float = 0.0
    q: float = 0.0
    guidance: float = 1.0
    clip: tuple[float, float, float] | None = None

    def coefficients(self) -> tuple[float, ...]:
        """Return a, b, c, d, p, q, guidance, limit, a0, b0, as every kernel takes them; without a clip x0 is x itself."""
        limit, a0, b0 = self.clip or (inf, 1.0, 0.0)
        return (self.a, self.b, self.c, self.d, self.p, self.q, self.guidance, limit, a0, b0)


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler's rows; the state starts as noise times ``initial_scale``."""

    steps: tuple[Step, ...]
    initial_scale: float

    @property
    def has_history(self) -> bool:
        """Whether any row reads the history."""
        return any(step.c != 0.0 for step in self.steps)


def advance(
    step: Step, state: FloatArray, velocity: FloatArray, history: FloatArray | None, noise: FloatArray | None
) -> None:
    """Advance ``state`` and ``history`` in place by one row: the plain twin of the fused kernel.

    All are float32. ``velocity`` has the state's leading size N (or 1), or 2 N with the unconditional half first; the
    history takes the state as it was before the step. Raises `ShapeError` for another leading size and
    `InternalError` where the row needs a history or noise that was not given.
    """
    _check_row(step, state, velocity, history, noise)
    v = velocity
    if velocity.shape[0] == 2 * state.shape[0]:
        empty, full = np.split(velocity, 2)
        v = empty + np.float32(step.guidance) * (full - empty)
    kept = np.float32(step.p) * state + np.float32(step.q) * v if history is not None else None
    base = state
    if step.clip is not None:
        limit, a0, b0 = (np.float32(number) for number in step.clip)
        base = np.clip(a0 * state + b0 * v, -limit, limit)
    moved = np.float32(step.a) * base + np.float32(step.b) * v
    if history is not None:
        moved += np.float32(step.c) * history
        history[...] = kept
    if noise is not None:
        moved += np.float32(step.d) * noise
    state[...] = moved


def _check_row(
    step: Step, state: FloatArray, velocity: FloatArray, history: FloatArray | None, noise: FloatArray | None
) -> None:
    count = state.shape[0]
    if velocity.shape[0] not in (1, count, 2 * count):
        raise ShapeError(
            "SAMPLER_VELOCITY",
            f"wanted a velocity of {count} rows, or {2 * count} with guidance, got {velocity.shape[0]}",
        )
    for name, coefficient, tensor in (("history", step.c, history), ("noise", step.d, noise)):
        if coefficient != 0.0 and tensor is None:
            raise InternalError("SAMPLER_INPUT", f"the row at time {step.time:g} needs {name}, got none; pass it")
