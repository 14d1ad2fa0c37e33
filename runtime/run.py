"""The two ways to run: an episode on a simulated arm, and a plan from a recording."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import plugins
from .errors import ConfigError
from .footage import fit_note, open_footage
from .image import fit
from .loop import Episode, EpisodeOptions, run_episode
from .pipeline import Pipeline
from .profiler import Profiler
from .results import Finished, outputs, progress_bars, publish
from .settings import RecordingSettings, SimulationSettings
from .tokenizer import check_instruction
from .types import ImageArray, Observation


def simulate(settings: SimulationSettings) -> dict[str, Any]:
    """Run one episode in simulation, show it, and return its facts; raises the errors of every part."""
    spec = plugins.load("robots", settings.robot)
    task = chosen_task(spec, settings.task)
    started = time.perf_counter()
    with outputs(settings.out) as directory, settings.engines.open() as pipeline:
        contract = pipeline.manifest.input
        real: list[ImageArray] = []
        arm = open_simulation(
            spec, task, settings.seed, pipeline, lambda seen, _: real.append(seen.images[contract.camera])
        )
        try:
            real.append(arm.observe().images[contract.camera])
            pipeline.warmup()
            cold_start_s = time.perf_counter() - started
            profiler, begun = Profiler(), time.perf_counter()
            with progress_bars() as progress:
                episode = run_episode(
                    arm,
                    pipeline,
                    episode_options(settings, pipeline, arm),
                    profiler,
                    solved=arm.robot.solved,
                    spend=plan_clock(settings.plan_time, arm.hold),
                    progress=progress,
                )
            wall_s = time.perf_counter() - begun
            arm.stop()
        finally:
            arm.close()
        outcome = f"{'solved' if episode.solved else 'not solved'} after {episode.actions} actions"
        done = Finished(
            title=f"dvgwm on {spec.name}",
            outcome=outcome,
            facts={
                "robot": f"{spec.name}, simulated, camera by {arm.robot.renderer}",
                "task": f"{task}, seed {settings.seed}",
                "plan time": settings.plan_time,
            },
            plans=[plan for _, plan in episode.plans],
            imagined=imagined(
                episode, min(pipeline.manifest.rates.act_every, settings.execute or settings.max_actions)
            ),
            real=np.stack(real),
            events=episode.events,
            profiler=profiler,
            cold_start_s=cold_start_s,
            wall_s=wall_s,
            result={
                "command": "run",
                "robot": spec.name,
                "simulated": True,
                "renderer": arm.robot.renderer,
                "task": task,
                "seed": settings.seed,
                "solved": episode.solved,
                "actions": episode.actions,
                "plan_time": settings.plan_time,
                "events": sorted({event.log_code for event in episode.events}),
            },
        )
        return publish(directory, settings.out or directory_name(directory), pipeline, done)


def plan_recording(settings: RecordingSettings) -> dict[str, Any]:
    """Imagine and act from a recording, show the plan beside what was recorded, and return its facts."""
    if settings.camera is None:
        raise ConfigError("CAMERA_OPTION", "--plan-only wants --camera PATH: an image, a folder of images or a video")
    instruction = check_instruction(settings.instruction or "")
    footage = open_footage(settings.camera)
    started = time.perf_counter()
    with outputs(settings.out) as directory, settings.engines.open() as pipeline:
        contract = pipeline.manifest.input
        recorded = footage.sampled(contract.fps, 49, settings.at_s)
        size = contract.height_px, contract.width_px
        real = np.stack([fit(frame, *size) for frame in recorded])
        seen = [Observation({contract.camera: real[0]}, np.zeros(0), 0.0)]
        pipeline.warmup()
        cold_start_s = time.perf_counter() - started
        profiler, begun = Profiler(), time.perf_counter()
        with progress_bars() as progress:
            plan = pipeline.imagine(seen, instruction, settings.seed, profiler, progress)
            chunk = pipeline.act(plan, seen, instruction, profiler, progress)
        wall_s = time.perf_counter() - begun
        note = fit_note((recorded.shape[1], recorded.shape[2]), size)
        done = Finished(
            title=f"dvgwm on {settings.camera.name}",
            outcome=f"planned {len(plan.frames)} frames and {len(chunk.actions)} actions, nothing was moved",
            facts={"recording": f"{settings.camera} from {settings.at_s:g} s: {note}"},
            plans=[plan],
            imagined=plan.frames,
            real=real,
            events=(),
            profiler=profiler,
            cold_start_s=cold_start_s,
            wall_s=wall_s,
            result={
                "command": "plan",
                "camera": str(settings.camera),
                "at_s": settings.at_s,
                "recorded_frames": len(recorded),
                "fitted": note,
                "seed": settings.seed,
                "actions": len(chunk.actions),
            },
        )
        return publish(directory, settings.out or directory_name(directory), pipeline, done)


def chosen_task(spec: Any, wanted: str | None) -> str:
    """Return the task to simulate; raises `ConfigError` naming those that exist."""
    if wanted is not None and wanted not in spec.tasks:
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
    """Return how the episode runs, with the task's own sentence and all of a plan's actions where nothing was said."""
    instruction = arm.robot.instruction if settings.instruction is None else settings.instruction
    rates = pipeline.manifest.rates
    return EpisodeOptions(instruction, settings.seed, settings.execute or rates.act_every, settings.max_actions)


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


def directory_name(staging: Path) -> Path:
    """Return what a staging directory will be called."""
    return staging.with_name(staging.name.removeprefix(".").removesuffix(".unfinished"))
