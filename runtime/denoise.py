"""The loop of every sampler: one engine run and one affine step per row of the table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .backend import Backend, Engine
from .noise import draw
from .profiler import Profiler
from .sampler import Table
from .types import Tensor

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one call of the pipeline hands to every stage."""

    seed: int
    profiler: Profiler
    progress: Progress


def denoise(
    name: str,
    engine: Engine,
    backend: Backend,
    table: Table,
    state: Tensor,
    conditions: Mapping[str, Tensor],
    run: Run,
) -> None:
    """Take ``state`` in place from the table's first row to its last.

    ``conditions`` are the engine's inputs beside ``state`` and ``time``; with guidance their first half is the
    unconditional branch. All noise is drawn on the host from (seed, name, step).
    """
    times = [backend.upload(np.asarray([step.time], np.float32)) for step in table.steps]
    history = backend.upload(np.zeros(state.shape, np.float32)) if table.has_history else None
    branches = max((tensor.shape[0] for tensor in conditions.values()), default=1)
    for index, (step, time) in enumerate(zip(table.steps, times, strict=True)):
        with run.profiler.span(f"{name}: engine", flop=engine.spec.flop * branches):
            velocity = engine.run({"state": state, "time": time, **conditions})["velocity"]
        noise = None
        if step.d != 0.0:
            noise = backend.upload(draw(run.seed, name, index + 1, state.shape))
        with run.profiler.span(f"{name}: step"):
            backend.affine_step(step, state, velocity, history, noise)
        run.progress(name, index + 1, len(table.steps))
