"""The loop of every sampler: one engine run and one step of the state per row of coefficients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .backends.backend import Backend, Engine
from .noise import draw
from .profiler import Profiler
from .sampler import Sampler
from .types import Tensor

T = TypeVar("T")
LINE = 64
"""Numbers from one time to the next: 256 bytes, the alignment of a GPU's own allocations."""
Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""


@dataclass(frozen=True, slots=True)
class Context:
    """One call of the pipeline, for every stage: the seed of its noise, and who is told of time and progress."""

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
    modulations: Sequence[Tensor] = (),
) -> None:
    """Take ``state`` in place from the sampler's first row to its last.

    ``conditions`` are the engine's inputs beside ``state`` and ``time``; with guidance their first half is the
    unconditional branch. ``modulations`` has one of every row if the engine wants them. All noise is drawn on the host
    from (seed, name, step). All uploads are done before the first row: an upload between them
    would wait for the device.
    """
    times, noises = _uploaded(name, backend, sampler, state, context.seed)
    history = backend.upload(np.zeros(state.shape, np.float32)) if sampler.has_history else None
    branches = max((tensor.shape[0] for tensor in conditions.values()), default=1)
    for index, step in enumerate(paced(name, sampler.steps, backend, context)):
        with context.profiler.span(f"{name}: engine", flop=engine.spec.flop * branches, on=backend):
            time = times[index : index + 1, :1].reshape(1)
            modulation = {"modulation": modulations[index]} if modulations else {}
            velocity = engine.run({"state": state, "time": time, **modulation, **conditions})["velocity"]
        with context.profiler.span(f"{name}: step", on=backend):
            backend.affine_step(step, state, velocity, history, noises[index])


def paced(name: str, pieces: Sequence[T], backend: Backend, context: Context) -> Iterator[T]:
    """Yield ``pieces`` of work and tell progress after each, while the device does the one before at the earliest.

    A host without a wait would be done in a moment: progress would be none, and a signal would wait for all of the work.
    """
    before = None
    for count, piece in enumerate(pieces, 1):
        yield piece
        mark = backend.mark()
        if before is not None:
            backend.wait(before)
        before = mark
        context.progress(name, count, len(pieces))


def _uploaded(
    name: str, backend: Backend, sampler: Sampler, state: Tensor, seed: int
) -> tuple[Tensor, list[Tensor | None]]:
    """Return every row's time, one a line of memory of its own, and its noise if it wants any."""
    times = np.zeros((len(sampler.steps), LINE), np.float32)
    times[:, 0] = [step.time for step in sampler.steps]
    noises = [
        backend.upload(draw(seed, name, index + 1, state.shape)) if step.d != 0.0 else None
        for index, step in enumerate(sampler.steps)
    ]
    return backend.upload(times), noises
