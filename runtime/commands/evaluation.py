"""Closed-loop success over tasks and layouts, without torch."""

import time
from collections import Counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from ..config.plugins import load_robot, open_simulation, simulation_of
from ..config.settings import SimulationSettings
from ..display.compiling import compiling_progress
from ..display.tables import text_table
from ..loop import EpisodeOptions, run_episode
from ..profiler import Profiler
from .controls import imagination


def evaluate(settings: SimulationSettings, episodes: int, quiet: bool, control: str | None = None) -> dict[str, Any]:
    """Run ``episodes`` in all, spread evenly over the tasks, each on a layout of its own, and return the success rates.

    With a ``control`` of `controls` something else takes imagination's place. ``object_accuracy`` is how often, of several
    things, the one was moved that was asked for: with the control ``other-instruction`` the one that it asks for. An episode
    that the gate stopped is not solved; ``stopped`` counts them by log code.
    """
    spec = load_robot(settings.robot, settings.limits)
    simulation = simulation_of(spec)
    tasks = simulation.tasks
    layouts = [(tasks[index % len(tasks)], settings.seed + index // len(tasks)) for index in range(episodes)]
    solved: dict[str, list[bool]] = {task: [] for task in tasks}
    heeded: dict[str, list[bool]] = {task: [] for task in tasks}
    seconds: list[float] = []
    stopped: list[str] = []
    started = time.perf_counter()
    with settings.engines.open(compiling_progress) as pipeline:
        pipeline.warmup()
        size_px = pipeline.manifest.input.height_px, pipeline.manifest.input.width_px
        console = Console(stderr=True, quiet=quiet)
        for task, seed in track(layouts, "evaluating", console=console, disable=quiet):
            begun = time.perf_counter()
            arm = open_simulation(spec, task, seed, pipeline)
            try:
                options = EpisodeOptions.of(settings, pipeline, arm)
                spend = settings.plan_clock(arm)
                rehearsal = simulation.rehearse(task, seed, *size_px) if control == "true-frames" else ()
                imagine = imagination(control, pipeline, arm.scene, rehearsal)
                done = run_episode(
                    arm, pipeline, options, Profiler(), solved=arm.scene.solved, spend=spend, imagine=imagine
                )
                asked = arm.scene.other_instruction if control == "other-instruction" else options.instruction
                if (heeds := arm.scene.heeds(asked)) is not None:
                    heeded[task].append(heeds)
            finally:
                arm.close()
            solved[task].append(done.solved)
            stopped += [] if done.stopped is None else [done.stopped.log_code]
            seconds.append(time.perf_counter() - begun)
        trained = pipeline.manifest.model.trained
    rates = {task: float(np.mean(results)) for task, results in solved.items() if results}
    named = [result for results in heeded.values() for result in results]
    if not quiet:
        _show(solved, heeded, trained)
    return {
        "command": "evaluate",
        "robot": spec.name,
        "episodes": episodes,
        "success_rate": float(np.mean([result for results in solved.values() for result in results])),
        "success_rate_by_task": rates,
        "object_accuracy": float(np.mean(named)) if named else None,
        "stopped": dict(Counter(stopped)),
        "trained": trained,
        "control": control,
        "plan_time": settings.plan_time,
        "seed": settings.seed,
        "episode_s": float(np.mean(seconds)),
        "wall_s": time.perf_counter() - started,
    }


def _show(solved: dict[str, list[bool]], heeded: dict[str, list[bool]], trained: bool) -> None:
    rows = []
    for task, results in solved.items():
        rates = (f"{np.mean(outcomes):.0%}" if outcomes else "" for outcomes in (results, heeded[task]))
        rows.append((task, str(len(results)), str(sum(results)), *rates))
    title = "success" if trained else "success of untrained weights"
    Console().print(text_table(title, ["task"], ["episodes", "solved", "rate", "right object"], rows))
