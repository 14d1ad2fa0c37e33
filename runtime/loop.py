"""Observe, imagine, act, play: one episode on one arm."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from .denoise import Progress
from .pipeline import Pipeline, silent
from .profiler import Profiler
from .types import ActionChunk, Arm, ArmEvent, Observation, Plan

Imagine = Callable[[Sequence[Observation], str, int, Profiler, Progress], Plan]
"""What `Pipeline.imagine` is: observations, instruction, seed, profiler and progress to a plan."""


@dataclass(frozen=True, slots=True)
class EpisodeOptions:
    """How an episode runs: ``execute`` actions are played before the next plan, ``max_actions`` in all."""

    instruction: str
    seed: int
    execute: int
    max_actions: int


@dataclass(slots=True)
class Episode:
    """What happened: plans with the arm's time at their observation, actions played, motion's events, the outcome.

    ``spread`` has the largest disagreement of the policy's samples, a share of the range, for every action played.
    """

    plans: list[tuple[float, Plan]] = field(default_factory=list)
    actions: int = 0
    events: list[ArmEvent] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    solved: bool = False


def run_episode(
    arm: Arm,
    pipeline: Pipeline,
    options: EpisodeOptions,
    profiler: Profiler,
    *,
    solved: Callable[[], bool] = lambda: False,
    spend: Callable[[float], None] = lambda seconds: None,
    progress: Progress = silent,
    imagine: Imagine | None = None,
) -> Episode:
    """Return the episode that ends when ``solved()`` or after ``max_actions``.

    ``imagine`` takes the pipeline's place. ``spend`` is called with the wall seconds of every plan, so that a virtual
    clock can let them pass while the arm holds. Raises what the arm and the pipeline raise, after the arm has been told to
    brake.
    """
    episode, foresee = Episode(), imagine or pipeline.imagine
    history: deque[Observation] = deque(maxlen=max(pipeline.manifest.rates.history, 1))
    try:
        while episode.actions < options.max_actions and not episode.solved:
            _observe(arm, history, profiler)
            if _due(pipeline, episode, options):
                started = time.perf_counter()
                plan = foresee(history, options.instruction, _plan_seed(options, episode), profiler, progress)
                episode.plans.append((history[-1].time_s, plan))
                spend(time.perf_counter() - started)
                history.pop()  # the arm held still while it planned: seen again, not twice
                _observe(arm, history, profiler)
            chunk = pipeline.act(episode.plans[-1][1], history, options.instruction, profiler, progress)
            chunk = _head(chunk, min(_stride(pipeline, options), options.max_actions - episode.actions))
            with profiler.span("motion"):
                arm.play(chunk)
            episode.actions += len(chunk.actions)
            episode.events += arm.events()
            episode.spread += [] if chunk.spread is None else chunk.spread.max(1).tolist()
            episode.solved = solved()
    except BaseException:
        arm.stop()
        raise
    return episode


def _observe(arm: Arm, history: deque[Observation], profiler: Profiler) -> None:
    with profiler.span("observe"):
        history.append(arm.observe())


def _due(pipeline: Pipeline, episode: Episode, options: EpisodeOptions) -> bool:
    rates = pipeline.manifest.rates
    if not episode.plans or not rates.replan_every:
        return not episode.plans
    # A plan is good for as long as it is followed by default, and for all that one call of the policy gives.
    return episode.actions % min(options.execute, max(rates.replan_every, rates.act_every)) == 0


def _stride(pipeline: Pipeline, options: EpisodeOptions) -> int:
    return min(pipeline.manifest.rates.act_every, options.execute)


def _plan_seed(options: EpisodeOptions, episode: Episode) -> int:
    """Give every plan of an episode noise of its own."""
    return options.seed * 1000 + len(episode.plans)


def _head(chunk: ActionChunk, count: int) -> ActionChunk:
    spread = None if chunk.spread is None else chunk.spread[:count]
    return replace(chunk, actions=chunk.actions[:count], times_s=chunk.times_s[:count], spread=spread)
