"""What takes imagination's place in an evaluation, so that its share in the success can be seen."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..cameras.image import fit
from ..denoise import Progress
from ..loop import Imagine
from ..pipeline import Pipeline
from ..profiler import Profiler
from ..seams import Scene
from ..types import ImageArray, Observation, Plan


def imagination(
    control: str | None, pipeline: Pipeline, scene: Scene, rehearsal: Sequence[Observation]
) -> Imagine | None:
    """Return what imagines under ``control``, None without one.

    ``frozen`` holds what is seen now, ``other-instruction`` imagines what ``scene`` calls its other instruction, and
    ``true-frames`` shows the ``rehearsal``, observations from the episode's start on, from the time of the plan on.
    """

    def frozen(observations: Sequence[Observation], instruction: str, seed: int, *_: Any) -> Plan:
        return _plan(pipeline, [observations[-1]], instruction, seed)

    def other(
        observations: Sequence[Observation], instruction: str, seed: int, profiler: Profiler, progress: Progress
    ) -> Plan:
        return pipeline.imagine(observations, scene.other_instruction, seed, profiler, progress)

    def true(observations: Sequence[Observation], instruction: str, seed: int, *_: Any) -> Plan:
        passed_s = observations[-1].time_s - rehearsal[0].time_s
        later = [shown for shown in rehearsal if shown.time_s - rehearsal[0].time_s >= passed_s - 1e-6]
        return _plan(pipeline, later or rehearsal[-1:], instruction, seed)

    return {None: None, "frozen": frozen, "other-instruction": other, "true-frames": true}[control]


def _plan(pipeline: Pipeline, shown: Sequence[Observation], instruction: str, seed: int) -> Plan:
    """Return a plan of the frames of ``shown``, the last one held."""
    contract, (count, height_px, width_px) = pipeline.manifest.input, _size(pipeline)
    taken = [shown[min(index, len(shown) - 1)].images[contract.camera] for index in range(count)]
    frames: ImageArray = np.stack([fit(frame, height_px, width_px) for frame in taken])
    return Plan(frames, np.arange(count) / contract.fps, {}, instruction, seed)


def _size(pipeline: Pipeline) -> tuple[int, int, int]:
    """Return how many frames a plan has, their height and their width."""
    act, decode = (
        next(stage.spec for stage in pipeline.stages if stage.spec.kind == kind) for kind in ("act", "decode")
    )
    height_px, width_px = next(iter(decode.engines.values())).outputs[0].shape[2:4]
    if isinstance(frames := act.constants.get("frames"), int | float):
        return int(frames), int(height_px), int(width_px)
    plan = next(spec for spec in act.engines["act"].inputs if spec.name == "plan")
    return int(plan.shape[1]), int(height_px), int(width_px)
