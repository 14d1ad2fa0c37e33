"""The parts of a run, each from its inputs on disk to what it leaves there."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dvgwm.models.build import Networks, build
from dvgwm.robots.sim.tasks import TASKS
from dvgwm.runtime import plugins
from dvgwm.runtime.bundle import read_bundle
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.record.reader import open_dataset

from .arrays import open_arrays
from .checkpoint import load_weights
from .config import Part, Run
from .data import split
from .loop import WEIGHTS, Progress, Watch, train
from .policy import PolicyObjective, Windows
from .upper_bound import act_in_torch, acting_stage, summary, upper_bound

Report = Callable[[Progress], None]


def networks_of(run: Run) -> Networks:
    """Return the networks of the run's preset as they are before any training."""
    return build(run.preset, run.seed)


def train_policy(
    run: Run, report: Report, minutes: float | None = None, steps: int | None = None, start: Path | None = None
) -> dict[str, Any]:
    """Train frame encoder and policy and return what came of it."""
    part = run.policy if steps is None else replace(run.policy, steps=steps)
    dataset = open_dataset(run.data.path)
    arrays = open_arrays(run.data.path, run.data.camera)
    learned, held = (
        Windows(run.preset, arrays, list(numbers), part.window, later, run.seed)
        for numbers, later in zip(split(dataset), (run.data.later, 0.0), strict=True)
    )
    torch.manual_seed(run.seed)
    objective = PolicyObjective(run.preset, networks_of(run), part)
    if start is not None:
        load_weights(objective, start)
    return _trained(part, objective, learned, run, "policy", report, Watch(held), minutes)


def measure_upper_bound(
    run: Run, episodes: int, seed: int, weights: Path | None, bundle: Path | None, report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Return success and position error of the trained policy, or of a bundle's, on true frames."""
    if bundle is not None:
        opened = read_bundle(bundle)
        with Pipeline(opened, plugins.open_backend(opened.manifest.backend, None)) as pipeline:
            act = acting_stage(next(stage for stage in pipeline.stages if stage.spec.kind == "act"))
            outcomes = upper_bound(run.preset, act, list(TASKS), episodes, seed, report)
        return summary(outcomes) | {"bundle": str(bundle), "seed": seed}
    networks = networks_of(run)
    path = weights or run.out / "policy" / WEIGHTS
    if not path.is_file():
        raise ConfigError("WEIGHTS_MISSING", f"{path} is not there; train it with `dvgwm-train policy`")
    load_weights(PolicyObjective(run.preset, networks, run.policy), path)
    outcomes = upper_bound(run.preset, act_in_torch(run.preset, networks), list(TASKS), episodes, seed, report)
    return summary(outcomes) | {"weights": str(path), "seed": seed}


def _trained(
    part: Part,
    objective: nn.Module,
    clips: Any,
    run: Run,
    name: str,
    report: Report,
    watch: Watch | None,
    minutes: float | None,
) -> dict[str, Any]:
    reached: list[Progress] = []

    def told(progress: Progress) -> None:
        reached[:] = [progress]
        report(progress)

    path = train(part, objective, clips, run.out / name, run.seed, told, watch, minutes)
    return {"weights": str(path)} | (asdict(reached[0]) if reached else {})
