"""The policy's success on the true future: a scripted expert's video of the same layout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dvgwm.export.describe import act_stage, action_contract
from dvgwm.export.graphs import acting
from dvgwm.export.interface import engine_spec
from dvgwm.export.verify import torch_backend
from dvgwm.models.networks import Networks
from dvgwm.models.sizes import Preset
from dvgwm.robots.arm import open_arm
from dvgwm.robots.galaxea_a1 import ROBOT
from dvgwm.robots.sim.expert import demonstrate
from dvgwm.robots.spec import SimulationOptions
from dvgwm.runtime.denoise import Context
from dvgwm.runtime.profiler import Profiler
from dvgwm.runtime.stages import Stage, open_stage
from dvgwm.runtime.types import ActionChunk, DoubleArray, FloatArray, ImageArray

Act = Callable[[ImageArray, int], tuple[DoubleArray, DoubleArray]]
"""A plan's frames and a seed to actions N D in their units, and how far the samples disagree, shares of the ranges N D."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One episode: whether it was solved, and for every action the tool's distance from the expert's, and the spread."""

    task: str
    seed: int
    solved: bool
    error_mm: FloatArray
    spread: float


def act_in_torch(preset: Preset, networks: Networks) -> Act:
    """Return the runtime's own act stage, frame encoder and policy being the torch modules."""
    graphs = acting(preset, networks)
    backend = torch_backend(graphs)
    specs = {graph.name: engine_spec(graph) for graph in graphs}
    engines = {role: backend.load(Path(specs[name].file), specs[name]) for role, name in ROLES.items()}
    return acting_stage(open_stage(act_stage(preset, specs), engines, backend, None, action_contract(preset)))  # type: ignore[arg-type]


ROLES = {"encode": "frame_encoder", "denoise": "policy"}


def acting_stage(stage: Stage) -> Act:
    """Return ``stage``, an opened act stage, as a function."""

    def act(frames: ImageArray, seed: int) -> tuple[DoubleArray, DoubleArray]:
        outputs = stage.run({"plan": frames}, Context(seed, Profiler(), lambda *_: None))
        return tuple(np.asarray(outputs[name], np.float64) for name in ("actions", "actions_spread"))  # type: ignore[return-value]

    return act


def upper_bound(
    preset: Preset, act: Act, tasks: Sequence[str], episodes: int, seed: int, report: Callable[[int, int], None]
) -> tuple[Trial, ...]:
    """Return ``episodes`` trials in all, spread over ``tasks``, on layouts from ``seed`` on.

    The plan is the expert's video of the layout; the policy's actions are played through motion and gate.
    """
    trials = []
    for index in range(episodes):
        report(index, episodes)
        options = SimulationOptions(tasks[index % len(tasks)], seed + index // len(tasks), *preset.high)
        trials.append(_episode(preset, act, options))
    report(episodes, episodes)
    return tuple(trials)


def _episode(preset: Preset, act: Act, options: SimulationOptions) -> Trial:
    shown = demonstrate(options)
    frames = np.stack([seen.images["scene"] for seen in shown.observations[: preset.frames]])
    actions, spread = act(frames, options.seed)
    arm = open_arm(ROBOT, task=options.task, seed=options.seed, height_px=options.height_px, width_px=options.width_px)
    try:
        arm.play(ActionChunk(actions, arm.time_s + np.arange(1, len(actions) + 1) / preset.fps, preset.actions.space))
        arm.stop()
        solved = arm.robot.solved()
    finally:
        arm.close()
    distance = np.linalg.norm(actions[:, :3] - shown.tool_actions[: len(actions), :3], axis=1)
    return Trial(
        options.task, options.seed, solved, np.asarray(distance * 1e3, np.float32), float(spread.max(1).mean())
    )


def summary(trials: Sequence[Trial]) -> dict[str, object]:
    """Return success and position error, in all and per task."""
    by_task: dict[str, list[Trial]] = {}
    for trial in trials:
        by_task.setdefault(trial.task, []).append(trial)
    return {
        "episodes": len(trials),
        "success_rate": _success(trials),
        "success_rate_by_task": {task: _success(own) for task, own in by_task.items()},
        "position_error_mm": _error_mm(trials),
        "position_error_mm_by_task": {task: _error_mm(own) for task, own in by_task.items()},
        "sample_spread": float(np.mean([trial.spread for trial in trials])),
        "failed": [f"{trial.task} {trial.seed}" for trial in trials if not trial.solved],
    }


def _success(trials: Sequence[Trial]) -> float:
    return float(np.mean([trial.solved for trial in trials]))


def _error_mm(trials: Sequence[Trial]) -> float:
    return float(np.mean([trial.error_mm.mean() for trial in trials]))
