"""One episode on a simulated arm."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from . import plugins
from .errors import ConfigError
from .loop import Episode, EpisodeOptions, run_episode
from .pipeline import Pipeline
from .profiler import Profiler
from .results import Finished, outputs, progress_bars, publish
from .settings import SimulationSettings
from .types import ImageArray, Observation


def simulate(settings: SimulationSettings) -> dict[str, Any]:
    """Run one episode in simulation, show it, and return its facts; raises the errors of every part."""
    spec = plugins.load("robots", settings.robot)
    task = chosen_task(spec, settings.task)
    started = time.perf_counter()
    with outputs(settings.out) as (directory, shown_as), settings.engines.open() as pipeline:
        camera = pipeline.manifest.input.camera
        real: list[ImageArray] = []
        arm = open_simulation(spec, task, settings.seed, pipeline, lambda seen, _: real.append(seen.images[camera]))
        with closing(arm):
            real.append(arm.observe().images[camera])
            pipeline.warmup()
            profiler, begun = Profiler(), time.perf_counter()
            options = episode_options(settings, pipeline, arm)
            episode = _episode(settings, options, pipeline, arm, profiler)
            wall_s = time.perf_counter() - begun
            arm.stop()
            result = _result(settings, task, arm, episode)
        played = min(pipeline.manifest.rates.act_every, options.execute)
        done = Finished(
            title=f"dvgwm on {spec.name}",
            outcome=f"{'solved' if episode.solved else 'not solved'} after {episode.actions} actions",
            facts={
                "robot": f"{spec.name}, simulated, camera by {result['renderer']}",
                "task": f"{task}, seed {settings.seed}",
                "plan time": settings.plan_time,
            },
            plans=[plan for _, plan in episode.plans],
            imagined=imagined(episode, played),
            real=np.stack(real),
            events=episode.events,
            profiler=profiler,
            cold_start_s=begun - started,
            wall_s=wall_s,
            result=result,
        )
        return publish(directory, shown_as, pipeline, done, settings.gif)


def _episode(
    settings: SimulationSettings, options: EpisodeOptions, pipeline: Pipeline, arm: Any, profiler: Profiler
) -> Episode:
    with progress_bars() as progress:
        return run_episode(
            arm,
            pipeline,
            options,
            profiler,
            solved=arm.robot.solved,
            spend=plan_clock(settings.plan_time, arm.hold),
            progress=progress,
        )


def _result(settings: SimulationSettings, task: str, arm: Any, episode: Episode) -> dict[str, Any]:
    return {
        "command": "run",
        "robot": settings.robot,
        "simulated": True,
        "renderer": arm.robot.renderer,
        "task": task,
        "seed": settings.seed,
        "solved": episode.solved,
        "actions": episode.actions,
        "plan_time": settings.plan_time,
        "events": sorted({event.log_code for event in episode.events}),
        "sample_spread": float(np.mean(episode.spread)) if episode.spread else None,
    }


def chosen_task(spec: Any, wanted: str | None) -> str:
    """Return the task to simulate, ``task`` or ``task:object``; raises `ConfigError` naming those that exist."""
    if wanted is not None and wanted.split(":")[0] not in spec.tasks:
        raise ConfigError("TASK_UNKNOWN", f"{spec.name} has no task {wanted!r}; known: {', '.join(spec.tasks)}")
    return wanted or str(spec.tasks[0])


def open_simulation(
    spec: Any, task: str, seed: int, pipeline: Pipeline, on_frame: Callable[[Observation, Any], None] | None = None
) -> Any:
    """Return the simulated arm with the camera size that the bundle wants."""
    contract = pipeline.manifest.input
    return plugins.open_arm()(
        spec, task=task, seed=seed, height_px=contract.height_px, width_px=contract.width_px, on_frame=on_frame
    )


def episode_options(settings: SimulationSettings, pipeline: Pipeline, arm: Any) -> EpisodeOptions:
    """Return how the episode runs, with the task's sentence and the bundle's rate of planning where nothing was said."""
    instruction = arm.robot.instruction if settings.instruction is None else settings.instruction
    rates = pipeline.manifest.rates
    execute = settings.execute or rates.replan_every or rates.act_every
    return EpisodeOptions(instruction, settings.seed, execute, settings.max_actions)


def plan_clock(plan_time: str, hold: Callable[[float], None]) -> Callable[[float], None]:
    """Return what a plan of so many wall seconds does to the virtual clock."""
    if plan_time == "frozen":
        return lambda seconds: None
    if plan_time == "measured":
        return hold
    return lambda seconds: hold(float(plan_time))


def imagined(episode: Episode, played: int) -> ImageArray:
    """Return the imagined frames that were acted on, plan after plan, to set beside what was then seen."""
    plans = [plan.frames for _, plan in episode.plans]
    return np.concatenate([plans[0][:1], *(frames[1 : played + 1] for frames in plans)])
