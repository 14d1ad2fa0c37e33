"""One episode on a real arm: everything is looked at first, and it moves only once a person has said so."""

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from rich.console import Console

from ..bundle.manifest import Learned
from ..bundle.tokenizer import check_instruction
from ..cameras.reader import CameraReader
from ..config.plugins import load_robot, open_live
from ..config.settings import LiveSettings
from ..denoise import Progress
from ..display.asking import ask, check_person, checks_table, drawn
from ..display.compiling import compiling_progress
from ..display.report import Finished
from ..display.results import outputs, progress_bars, publish
from ..display.video import write_video
from ..errors import ConfigError, DeclinedPlanError, DvgwmError, GateLatchError
from ..familiar import Unfamiliar, unfamiliar
from ..film import Film, together
from ..loop import EpisodeOptions, Imagine, run_episode
from ..pipeline import Pipeline, silent
from ..profiler import Profiler
from ..seams import LiveArm
from ..types import ImageArray, Observation, Plan
from .readiness import check_actions

ANOTHER_SEED = 1_000_003
"""Added to a plan's seed for the plan that is imagined in its place."""


def drive(settings: LiveSettings) -> tuple[dict[str, Any], DvgwmError | None]:
    """Run one episode on the real arm, show it, and return its facts and the stop of the arm, if any.

    Raises the errors of every part, and `DeclinedPlanError` if a person says no before anything has moved.
    """
    if not settings.dry_run or settings.approve:
        check_person()
    console, started = Console(stderr=True), time.perf_counter()
    instruction = check_instruction(settings.instruction)
    spec = load_robot(settings.robot, settings.limits)
    bundle = settings.engines.find(instruction)
    contract, real = bundle.manifest.input, Film()
    with ExitStack() as opened:
        camera = opened.enter_context(closing(CameraReader(settings.camera, contract.height_px, contract.width_px)))
        arm = open_live(
            spec,
            settings.arm,
            settings.driver_settings(),
            camera,
            contract.camera,
            settings.dry_run,
            lambda seen, _: real.add(seen.images[contract.camera]),
        )
        opened.enter_context(closing(arm))
        camera.latest()
        if camera.recorded and not settings.dry_run:
            raise ConfigError("CAMERA_RECORDED", f"{settings.camera} is a recording, no arm moves by it; add --dry-run")
        check_actions(bundle.manifest.action, spec.name, arm.recorded().joint_names)
        found = _familiar(settings, bundle.manifest.learned, instruction, camera.latest().image)
        directory, shown_as = opened.enter_context(outputs(settings.out, settings.gif))
        pipeline = opened.enter_context(settings.engines.open(compiling_progress, bundle))
        pipeline.warmup()
        _arm(arm, settings, console)
        armed_s = time.perf_counter()
        profiler = Profiler()
        real.add(arm.observe().images[contract.camera])
        rates = pipeline.manifest.rates
        execute = settings.execute or rates.replan_every or rates.act_every
        options = EpisodeOptions(instruction, settings.seed, execute, settings.max_actions)
        imagine = _imagination(pipeline, console, directory, shown_as if settings.approve else None)
        episode = run_episode(arm, pipeline, options, profiler, imagine=imagine)
        wall_s = time.perf_counter() - armed_s
        arm.stop()
        how = "dry run, nothing was sent" if settings.dry_run else "live"
        outcome = f"{how}: {episode.actions} actions"
        outcome += "" if episode.stopped is None else f", stopped: {episode.stopped.log_code}"
        tally = camera.tally()
        imagined, seen, every = together(episode.imagined, real)
        done = Finished(
            title=f"dvgwm on {spec.name}",
            outcome=outcome,
            facts={
                "robot": f"{spec.name} at {settings.arm}: {arm.about}",
                "camera": f"{settings.camera}: {tally.written} frames, {tally.old} out of order, {tally.frozen} frozen, "
                f"started anew {camera.restarts} times",
                **({} if settings.limits is None else {"limits": f"tightened by {settings.limits}"}),
            },
            plans=[plan for _, plan in episode.plans],
            imagined=imagined,
            seen=seen,
            seen_as="real",
            unfamiliar=found,
            every=every,
            events=episode.events,
            profiler=profiler,
            cold_start_s=armed_s - started,
            wall_s=wall_s,
            result={
                "command": "live",
                "robot": settings.robot,
                "simulated": False,
                "arm": settings.arm,
                "camera": settings.camera,
                "dry_run": settings.dry_run,
                "seed": settings.seed,
                "actions": episode.actions,
                "stopped": None if episode.stopped is None else episode.stopped.log_code,
                "events": sorted({event.log_code for event in episode.events}),
            },
            motion=arm.recorded(),
        )
        published = publish(directory, shown_as, pipeline, done)
    return published.show(settings.gif), episode.stopped


def _familiar(
    settings: LiveSettings, learned: Learned | None, instruction: str, image: ImageArray
) -> tuple[Unfamiliar, ...]:
    """Return everything new to the bundle; raises `ConfigError` if no arm is to move by it.

    By another sentence of known words one may.
    """
    found = tuple(unfamiliar(learned, instruction, image, settings.robot))
    strange = [each for each in found if each.what != "sentence"]
    if strange and not settings.unfamiliar:
        raise ConfigError(
            "UNFAMILIAR", f"{'; '.join(each.message for each in strange)}; to go on all the same add --unfamiliar"
        )
    return found


def _arm(arm: LiveArm, settings: LiveSettings, console: Console) -> None:
    """Show the checks, ask, and take hold of the arm; raises `GateLatchError` if one of them fails."""
    checks = arm.checks()
    console.print(checks_table(f"{settings.robot} at {settings.arm}", checks))
    if wrong := [check for check in checks if not check.fine]:
        raise GateLatchError("ARM_UNREADY", f"{wrong[0].what}: {wrong[0].found}; {wrong[0].remedy or 'see above'}")
    if not settings.dry_run:
        console.print(
            f"It will: “{settings.instruction}”. Is everybody clear, and a hand on the emergency stop?", markup=False
        )
        if ask(console, "Type arm to let it move, no to end:", ("arm", "no")) == "no":
            raise DeclinedPlanError("ARM_DECLINED", "the operator did not arm the robot; nothing was sent to it")
    arm.arm()


def _imagination(pipeline: Pipeline, console: Console, directory: Path, shown_as: Path | None) -> Imagine:
    """Return the function to imagine; with ``shown_as`` it plans until a person approves, and each plan is written there."""
    written = 0

    def imagine(
        observations: Sequence[Observation],
        instruction: str,
        seed: int,
        profiler: Profiler,
        progress: Progress = silent,
    ) -> Plan:
        nonlocal written
        while True:
            with progress_bars() as shown:
                plan = pipeline.imagine(observations, instruction, seed, profiler, shown)
            if shown_as is None:
                return plan
            written += 1
            video = write_video(directory / f"imagined-{written}", plan.frames, pipeline.manifest.input.fps)
            console.print(drawn(plan.frames))
            console.print(f"imagined, now at {video}, later at {shown_as / video.name}", markup=False, highlight=False)
            answer = ask(console, "Play this? yes, another to imagine anew, no to end:", ("yes", "another", "no"))
            if answer == "yes":
                return plan
            if answer == "no":
                raise DeclinedPlanError("PLAN_DECLINED", "the operator declined the plan; it was not played")
            seed += ANOTHER_SEED

    return imagine
