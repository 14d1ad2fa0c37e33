"""The loop of every sampler: one engine run and one step of the state per row of coefficients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .backends.backend import Backend, Engine
from .noise import draw
from .profiler import Profiler
from .sampler import Sampler
from .types import Tensor

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""


@dataclass(frozen=True, slots=True)
class Context:
    """What one call of the pipeline hands to every stage: the seed of its noise, and who is told of time and progress."""

    seed: int
    profiler: Profiler
    progress: Progress


def denoise(
    name: str,
    engine: Engine,
    backend: Backend,
    sampler: Sampler,
    state: Tensor,
    conditions: Mapping[str, Tensor],
    context: Context,
) -> None:
    """Take ``state`` in place from the sampler's first row to its last.

    ``conditions`` are the engine's inputs beside ``state`` and ``time``; with guidance their first half is the
    unconditional branch. All noise is drawn on the host from (seed, name, step).
    """
    times = [backend.upload(np.asarray([step.time], np.float32)) for step in sampler.steps]
    history = backend.upload(np.zeros(state.shape, np.float32)) if sampler.has_history else None
    branches = max((tensor.shape[0] for tensor in conditions.values()), default=1)
    for index, (step, time) in enumerate(zip(sampler.steps, times, strict=True)):
        with context.profiler.span(f"{name}: engine", flop=engine.spec.flop * branches):
            velocity = engine.run({"state": state, "time": time, **conditions})["velocity"]
        noise = backend.upload(draw(context.seed, name, index + 1, state.shape)) if step.d != 0.0 else None
        with context.profiler.span(f"{name}: step"):
            backend.affine_step(step, state, velocity, history, noise)
        context.progress(name, index + 1, len(sampler.steps))
