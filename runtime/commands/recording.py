"""A plan from a recording, with no robot."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.manifest import ActionContract
from ..bundle.tokenizer import check_instruction
from ..cameras.footage import fit_note, open_footage
from ..cameras.image import fit
from ..config.plugins import load_robot, planned_joints
from ..config.settings import RecordingSettings
from ..display.actions import PlannedActions
from ..display.compiling import compiling_progress
from ..display.report import Finished
from ..display.results import outputs, progress_bars, publish
from ..errors import ConfigError
from ..familiar import unfamiliar
from ..pipeline import Pipeline
from ..profiler import Profiler
from ..seams import RobotSpec
from ..types import ActionChunk, ImageArray, Observation, Plan, PlannedJoints
from .readiness import check_actions


def plan_recording(settings: RecordingSettings) -> dict[str, Any]:
    """Imagine and act from a recording, show the plan beside the recorded frames, and return its facts."""
    if settings.camera is None:
        raise ConfigError("CAMERA_OPTION", "--plan-only wants --camera PATH: an image, a folder of images or a video")
    instruction = check_instruction(settings.instruction or "")
    spec = None if settings.robot is None else load_robot(settings.robot, settings.limits)
    recording = Path(settings.camera)
    footage = open_footage(recording)
    started = time.perf_counter()
    bundle = settings.engines.find(instruction)
    with (
        outputs(settings.out, settings.gif) as (directory, shown_as),
        settings.engines.open(compiling_progress, bundle) as pipeline,
    ):
        seen, contract = pipeline.manifest.input, pipeline.manifest.action
        size = seen.height_px, seen.width_px
        first = footage.sampled(seen.fps, 1, settings.at_s)[0]
        found = tuple(
            unfamiliar(pipeline.manifest.learned, instruction, fit(first, *size), None if spec is None else spec.name)
        )
        pipeline.warmup()
        profiler, begun = Profiler(), time.perf_counter()
        plan, chunk = _plan(pipeline, fit(first, *size), instruction, settings.seed, profiler)
        wall_s = time.perf_counter() - begun
        recorded = footage.sampled(seen.fps, len(plan.frames), settings.at_s, size)
        note = fit_note((first.shape[0], first.shape[1]), size)
        done = Finished(
            title=f"dvgwm on {recording.name}",
            outcome=f"planned {len(plan.frames)} frames and {len(chunk.actions)} actions, nothing was moved",
            facts={"recording": f"{recording} from {settings.at_s:g} s: {note}"},
            plans=[plan],
            imagined=plan.frames,
            seen=recorded,
            seen_as="recorded",
            unfamiliar=found,
            planned=PlannedActions(chunk, contract, None if spec is None else _joints(spec, contract, chunk)),
            events=(),
            profiler=profiler,
            cold_start_s=begun - started,
            wall_s=wall_s,
            result={
                "command": "plan",
                "camera": str(recording),
                "at_s": settings.at_s,
                "recorded_frames": len(recorded),
                "fitted": note,
                "seed": settings.seed,
                "actions": len(chunk.actions),
            },
        )
        published = publish(directory, shown_as, pipeline, done)
    return published.show(settings.gif)


def _joints(spec: RobotSpec, contract: ActionContract, chunk: ActionChunk) -> PlannedJoints:
    planned = planned_joints(spec, chunk)
    check_actions(contract, spec.name, planned.names)
    return planned


def _plan(
    pipeline: Pipeline, image: ImageArray, instruction: str, seed: int, profiler: Profiler
) -> tuple[Plan, ActionChunk]:
    observations = [Observation({pipeline.manifest.input.camera: image}, np.zeros(0), 0.0)]
    with progress_bars() as progress:
        plan = pipeline.imagine(observations, instruction, seed, profiler, progress)
        return plan, pipeline.act(plan, observations, instruction, profiler, progress)
