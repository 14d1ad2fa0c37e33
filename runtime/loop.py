"""One episode on one arm: observe, imagine, act, play. `simulate` is the command line's."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .cameras.sight import check_sight
from .config.plugins import load_robot, open_simulation, simulation_of
from .config.settings import SimulationSettings
from .denoise import Progress
from .display.compiling import compiling_progress
from .display.report import Finished
from .display.results import outputs, progress_bars, publish
from .errors import (
    CameraLostError,
    DeadlineError,
    DeclinedPlanError,
    DvgwmError,
    GateLatchError,
    RobotCommunicationError,
    RobotStopError,
)
from .familiar import unfamiliar
from .film import Film, together
from .pipeline import Pipeline, silent
from .profiler import Profiler
from .seams import Arm, SimulatedArm
from .types import ActionChunk, ArmEvent, Observation, Plan

STOPS = GateLatchError, RobotStopError, RobotCommunicationError, CameraLostError, DeadlineError, DeclinedPlanError
"""What stops an arm, loses it or its camera, or keeps it from a plan. What was seen until then is shown; then the run ends."""
PLANS_BYTES = 256_000_000
"""So much of the last plans is remembered whole: four at full size."""
Imagine = Callable[[Sequence[Observation], str, int, Profiler, Progress], Plan]
"""What `Pipeline.imagine` is: observations, instruction, seed, profiler and progress to a plan."""


@dataclass(frozen=True, slots=True)
class EpisodeOptions:
    """The options of an episode: ``execute`` actions are played before the next plan, ``max_actions`` in all."""

    instruction: str
    seed: int
    execute: int
    max_actions: int

    @staticmethod
    def of(settings: SimulationSettings, pipeline: Pipeline, arm: SimulatedArm) -> "EpisodeOptions":
        """Return the options in ``settings``; by default the task's sentence and the bundle's rate of planning."""
        rates = pipeline.manifest.rates
        instruction = arm.scene.instruction if settings.instruction is None else settings.instruction
        execute = settings.execute or rates.replan_every or rates.act_every
        return EpisodeOptions(instruction, settings.seed, execute, settings.max_actions)


@dataclass(slots=True)
class EpisodeResult:
    """The record of an episode: plans with the arm's time at their observation, actions played, motion's events, success.

    ``spread`` has the largest disagreement of the policy's samples, a share of the range, for every action played;
    ``stopped`` is the error of a stopped arm. ``imagined`` has the frames acted on, to set beside the ones seen then. Plans
    older than the last `PLANS_BYTES` lose their frames and latents.
    """

    plans: list[tuple[float, Plan]] = field(default_factory=list)
    imagined: Film = field(default_factory=Film)
    actions: int = 0
    events: list[ArmEvent] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    solved: bool = False
    stopped: DvgwmError | None = None

    def add(self, time_s: float, plan: Plan, played: int) -> None:
        """Add a plan observed at ``time_s``; ``played`` of its actions are played."""
        for frame in plan.frames[0 if not self.plans else 1 : played + 1]:
            self.imagined.add(frame)
        self.plans.append((time_s, plan))
        left = PLANS_BYTES
        for index in reversed(range(len(self.plans) - 1)):
            at_s, old = self.plans[index]
            if not len(old.frames):
                break  # nor are those before it
            left -= plan_bytes(self.plans[index + 1][1])
            if left < plan_bytes(old):
                self.plans[index] = at_s, replace(old, frames=old.frames[:0].copy(), latents={})


def plan_bytes(plan: Plan) -> int:
    """Return how many bytes a plan's frames and latents take."""
    return plan.frames.nbytes + sum(latents.nbytes for latents in plan.latents.values())


def simulate(settings: SimulationSettings) -> tuple[dict[str, Any], DvgwmError | None]:
    """Run one episode in simulation, show it, and return its facts and the stop of the arm, if any.

    Raises the errors of every part.
    """
    spec = load_robot(settings.robot, settings.limits)
    task = settings.chosen_task(simulation_of(spec).tasks)
    plan_time = "real" if settings.process else settings.plan_time
    started = time.perf_counter()
    bundle = settings.engines.find(settings.instruction)
    with (
        outputs(settings.out, settings.gif) as (directory, shown_as),
        settings.engines.open(compiling_progress, bundle) as pipeline,
    ):
        camera = pipeline.manifest.input.camera
        real = Film()
        arm = open_simulation(
            spec, task, settings.seed, pipeline, lambda seen, _: real.add(seen.images[camera]), settings.process
        )
        with closing(arm), progress_bars() as progress:
            first = arm.observe().images[camera]
            real.add(first)
            options = EpisodeOptions.of(settings, pipeline, arm)
            found = tuple(unfamiliar(bundle.manifest.learned, options.instruction, first, spec.name))
            pipeline.warmup()
            profiler, begun = Profiler(), time.perf_counter()
            spend = settings.plan_clock(arm)
            episode = run_episode(
                arm, pipeline, options, profiler, solved=arm.scene.solved, spend=spend, progress=progress
            )
            wall_s = time.perf_counter() - begun
            arm.stop()
            renderer, motion = arm.scene.renderer, arm.recorded()
        outcome = f"{'solved' if episode.solved else 'not solved'} after {episode.actions} actions"
        outcome += "" if episode.stopped is None else f", stopped: {episode.stopped.log_code}"
        facts = {
            "robot": f"{spec.name}, simulated, camera by {renderer}",
            "task": f"{task}, seed {settings.seed}",
            "plan time": plan_time,
        }
        if settings.limits is not None:
            facts["limits"] = f"tightened by {settings.limits}"
        result = {
            "command": "run",
            "robot": settings.robot,
            "simulated": True,
            "renderer": renderer,
            "task": task,
            "seed": settings.seed,
            "solved": episode.solved,
            "actions": episode.actions,
            "plan_time": plan_time,
            "stopped": None if episode.stopped is None else episode.stopped.log_code,
            "events": sorted({event.log_code for event in episode.events}),
            "sample_spread": float(np.mean(episode.spread)) if episode.spread else None,
        }
        imagined, seen, every = together(episode.imagined, real)
        done = Finished(
            title=f"dvgwm on {spec.name}",
            outcome=outcome,
            facts=facts,
            plans=[plan for _, plan in episode.plans],
            imagined=imagined,
            seen=seen,
            seen_as="simulated",
            unfamiliar=found,
            every=every,
            events=episode.events,
            profiler=profiler,
            cold_start_s=begun - started,
            wall_s=wall_s,
            result=result,
            motion=motion,
        )
        published = publish(directory, shown_as, pipeline, done)
    return published.show(settings.gif), episode.stopped


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
) -> EpisodeResult:
    """Return the episode; it ends when ``solved()``, after ``max_actions``, or if arm or camera are lost (`STOPS`).

    ``imagine`` takes the pipeline's place. ``spend`` is called with the wall seconds of every plan: a virtual clock lets
    them pass while the arm holds. Errors of the arm and the pipeline are raised after the arm has been told to brake.
    """
    episode, imagine = EpisodeResult(), imagine or pipeline.imagine
    history: deque[Observation] = deque(maxlen=max(pipeline.manifest.rates.history, 1))
    stride, camera = min(pipeline.manifest.rates.act_every, options.execute), pipeline.manifest.input.camera
    since = None
    try:
        while episode.actions < options.max_actions and not episode.solved:
            since = _observe(arm, history, profiler, camera, since)
            if _plan_is_due(pipeline, episode, options):
                started = time.perf_counter()
                seed = options.seed * 1000 + len(episode.plans)  # every plan of an episode has noise of its own
                plan = imagine(history, options.instruction, seed, profiler, progress)
                episode.add(history[-1].time_s, plan, stride)
                spend(time.perf_counter() - started)
                history.pop()  # the arm held still while it planned: seen again, not twice
                since = _observe(arm, history, profiler, camera, since)
            chunk = pipeline.act(episode.plans[-1][1], history, options.instruction, profiler, progress)
            chunk = _head(chunk, min(stride, options.max_actions - episode.actions))
            with profiler.span("motion"):
                arm.play(chunk)
            episode.events += arm.events()
            episode.actions += len(chunk.actions)
            episode.spread += [] if chunk.spread is None else chunk.spread.max(1).tolist()
            episode.solved = solved()
    except STOPS as stop:
        arm.stop()
        episode.events += arm.events()
        if not episode.plans:  # there is nothing to show
            raise
        episode.stopped = stop
    except BaseException:
        arm.stop()
        raise
    return episode


def _observe(
    arm: Arm, history: deque[Observation], profiler: Profiler, camera: str, since: Observation | None
) -> Observation:
    """Look, add the observation to ``history``, and return the reference for the next look (`check_sight`)."""
    with profiler.span("observe"):
        history.append(arm.observe())
        return check_sight(history[-1], since, camera)


def _plan_is_due(pipeline: Pipeline, episode: EpisodeResult, options: EpisodeOptions) -> bool:
    rates = pipeline.manifest.rates
    if not episode.plans or not rates.replan_every:
        return not episode.plans
    # A plan is good for as long as it is followed by default, and for all that one call of the policy gives.
    return episode.actions % min(options.execute, max(rates.replan_every, rates.act_every)) == 0


def _head(chunk: ActionChunk, count: int) -> ActionChunk:
    spread = None if chunk.spread is None else chunk.spread[:count]
    return replace(chunk, actions=chunk.actions[:count], times_s=chunk.times_s[:count], spread=spread)
