"""The command line of `dvgwm-runtime`: its commands and options. The environment is read here and nowhere below."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..errors import ConfigError, DvgwmError, printable
from .lab import config_option, defaults_in_words, drop_defaults
from .options import (
    Memory,
    PathOption,
    PlanTime,
    Positive,
    Registered,
    Seconds,
    Seed,
    Words,
    bundle_options,
    rebuild_option,
)
from .program import add_completion

LIVE_ONLY = ("arm", "arm_settings", "dry_run", "approve", "unfamiliar")
NOT_LIVE = ("task", "process", "plan_only")
EPILOG = """\b
Examples:
  dvgwm-runtime --robot galaxea_a1                        one episode on the simulated arm
  dvgwm-runtime --robot galaxea_a1 --task "stack_cube:red cube" --seed 7
  dvgwm-runtime --robot galaxea_a1 --live --arm localhost:11311 --camera l515 --instruction "..." --dry-run
  dvgwm-runtime --plan-only --camera clip.mp4 --instruction "put the blue cup on the plate"
  dvgwm-runtime inspect engines/a1_tiny --deep            what a bundle holds, and whether its engines run
  dvgwm-runtime compile --bundle engines/dvgwm_5b         its engines for this GPU, with TensorRT
  dvgwm-runtime doctor --robot galaxea_a1 --arm localhost:11311 --camera l515
  dvgwm-runtime evaluate --episodes 20 --seed 0 --json    success over tasks and layouts
"""


def cache_dir() -> Path:
    """Return the default place of this user's prompts and engines."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dvgwm"
    except RuntimeError:  # this user has no home
        return Path(tempfile.gettempdir()) / f"dvgwm-{os.geteuid()}"


def _capabilities(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Return the compute capabilities in the option's ``value``."""
    from ..backends.tensorrt_rtx.build import capabilities_of

    return None if value is None else capabilities_of(value)


@click.group(invoke_without_command=True, epilog=EPILOG, context_settings={"max_content_width": 100})
@click.option(
    "--robot",
    type=Registered("robots"),
    help="Robot to drive, such as galaxea_a1; simulated unless --live is given. With --plan-only: its joints.",
)
@click.option("--task", help="Simulated task (default: the first), or TASK:OBJECT.")
@click.option("--instruction", help="What the robot is to do (default: the simulated task's own sentence).")
@click.option("--seed", type=Seed, default=0, show_default=True, help="Seed of the layout and of all noise.")
@click.option("--execute", type=Positive, help="Actions played before the next plan (default: the bundle's).")
@click.option("--max-actions", type=Positive, default=96, show_default=True, help="Actions after which it ends.")
@click.option(
    "--plan-time", type=PlanTime(), default="frozen", show_default=True, help="Virtual time that a plan costs."
)
@click.option(
    "--process", is_flag=True, help="Run motion and the simulated arm in a process of their own, in real time."
)
@click.option("--limits", type=PathOption(), help="TOML file that makes the robot's limits tighter (docs/limits.md).")
@click.option("--plan-only", is_flag=True, help="Imagine and act from a recording; no robot.")
@click.option(
    "--camera",
    type=Words(),
    help="With --plan-only a recording; with --live: l515, d435, opencv:/dev/video0, ros://...",
)
@click.option("--at", "at_s", type=Seconds, default=0.0, show_default=True, help="Second of the recording to start at.")
@click.option("--live", is_flag=True, help="Move the real arm at --arm, seen by --camera, once a person types arm.")
@click.option("--arm", type=Words(), help="With --live: the robot's address, such as localhost:11311.")
@click.option(
    "--arm-settings", type=PathOption(), help="With --live: TOML file for the robot's driver (docs/robots.md)."
)
@click.option("--dry-run", is_flag=True, help="With --live: do all but send; nothing moves, nobody is asked.")
@click.option("--approve", is_flag=True, help="With --live: show every imagined video, and wait for a yes.")
@click.option(
    "--unfamiliar",
    is_flag=True,
    help="With --live: go on with words or a picture that the bundle was never trained on.",
)
@click.option("--out", type=PathOption(), help="Directory for video, profile and report (default: runs/N).")
@click.option(
    "--gif", type=PathOption(), help="Also write what was imagined beside what was seen here, as an animated GIF."
)
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@bundle_options
@rebuild_option
@config_option
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> None:
    """Imagine an interaction, refine it, and act it out: DVG-WM on a robot PC.

    Without a command it runs one episode and shows the time of every stage. The last line of standard output is JSON.
    """
    options.pop("debug")
    if context.invoked_subcommand is not None:
        return
    from ..config.settings import LiveSettings, RecordingSettings, SimulationSettings, settings
    from ..loop import simulate
    from .recording import plan_recording

    drop_defaults(context, options, NOT_LIVE if options["live"] else LIVE_ONLY)
    if options["live"]:
        from .live import drive

        _check_live(options)
        _finish(*drive(settings(LiveSettings, options, cache_dir())))
    elif unused := [name for name in LIVE_ONLY if options[name]]:
        raise ConfigError(
            "USAGE", f"--{unused[0].replace('_', '-')} goes with --live, which was not given; nothing was moved"
        )
    elif options["plan_only"]:
        _finish(plan_recording(settings(RecordingSettings, options, cache_dir())))
    elif options["robot"]:
        _finish(*simulate(settings(SimulationSettings, options, cache_dir())))
    else:
        click.echo(context.get_help())
        raise ConfigError("USAGE", "wanted --robot NAME, --plan-only --camera PATH or a command, got none of them")


@cli.command()
@click.argument("bundle", type=PathOption())
@click.option("--deep", is_flag=True, help="Also load every engine and run it once on zeros.")
@click.option(
    "--memory", "memory_gb", type=Memory, metavar="GB", help="Also say how it fits into so much memory, stage by stage."
)
@click.option("--gpu", is_flag=True, help="With --memory: a GPU's, with engines compiled for it.")
def inspect(bundle: Path, deep: bool, memory_gb: float | None, gpu: bool) -> None:
    """Check every file of BUNDLE and print its contents.

    Files, numbers and shapes are checked; engines run with --deep only.
    """
    if gpu and memory_gb is None:
        raise ConfigError("USAGE", "--gpu goes with --memory GB, which was not given")
    from ..display.inspection import show
    from ..display.memory import show_memory

    result = show(bundle, deep)
    if memory_gb is not None:
        result |= show_memory(bundle, memory_gb, gpu)
    _finish(result)


@cli.command()
@click.option("--robot", type=Registered("robots"), default="galaxea_a1", show_default=True, help="Simulated robot.")
@click.option(
    "--episodes",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    help="Episodes in all, spread over the tasks.",
)
@click.option("--seed", type=Seed, default=0, show_default=True, help="Seed of the first layout.")
@click.option("--execute", type=Positive, help="Actions played before the next plan (default: the bundle's).")
@click.option("--max-actions", type=Positive, default=96, show_default=True, help="Actions after which one ends.")
@click.option("--plan-time", type=PlanTime(), default="frozen", show_default=True, help="Virtual time of a plan.")
@click.option("--limits", type=PathOption(), help="TOML file that makes the robot's limits tighter.")
@click.option(
    "--control",
    type=click.Choice(["frozen", "other-instruction", "true-frames"]),
    help="Instead of imagination: the first frame held, another instruction's video, or a scripted expert's.",
)
@click.option("--json", "only_json", is_flag=True, help="Print the last line only.")
@bundle_options
@rebuild_option
@config_option
def evaluate(**options: Any) -> None:
    """Run simulated episodes over all tasks and print the success rate.

    With --control the policy is shown something else than the imagined video: if success falls, imagination acts.
    """
    from ..config.settings import SimulationSettings, settings
    from .evaluation import evaluate as run_evaluation

    count, quiet, control = (options.pop(name) for name in ("episodes", "only_json", "control"))
    _finish(run_evaluation(settings(SimulationSettings, options, cache_dir()), count, quiet, control))


@cli.command()
@click.option(
    "--robot", type=Registered("robots"), help="Also look at this robot, and whether all that it wants is there."
)
@click.option("--arm", type=Words(), help="Its address: it is looked at, and sent nothing.")
@click.option("--arm-settings", type=PathOption(), help="TOML file for its driver.")
@click.option("--camera", type=Words(), help="Its camera: it is looked through for a second.")
@click.option("--limits", type=PathOption(), help="TOML file that makes its limits tighter.")
@bundle_options
@config_option
@click.pass_context
def doctor(context: click.Context, /, **options: Any) -> None:
    """Look at this machine, or at a robot: every mismatch for running dvgwm at once, each with its fix."""
    if options["robot"] is None:
        drop_defaults(context, options, names := ("arm", "arm_settings", "camera", "limits"))
        if unused := [name for name in names if options[name]]:
            raise ConfigError("USAGE", f"--{unused[0].replace('_', '-')} goes with --robot, which was not given")
        from ..display.inspection import diagnose

        _finish(diagnose(defaults_in_words(context)))
        return
    from ..config.settings import ReadinessSettings, settings
    from .readiness import examine

    _finish(*examine(settings(ReadinessSettings, options | {"config": defaults_in_words(context)}, cache_dir())))


@cli.command("compile")
@click.option(
    "--workspace", "workspace_gb", type=Memory, metavar="GB", help="Scratch memory of one engine (default: any)."
)
@click.option(
    "--runs-on",
    type=click.Choice(["here", "capability", "ampere"]),
    help="TensorRT: GPUs such as this one (default), all of its compute capability, all from Ampere on.",
)
@click.option(
    "--for",
    "capabilities",
    callback=_capabilities,
    metavar="LIST",
    help="TensorRT for RTX: compute capabilities (default: 86,89,120, the cards of 30xx, 40xx and 50xx).",
)
@click.option(
    "--refit/--no-refit",
    default=None,
    help="TensorRT: let engines take other weights later, as of a LoRA (default: --refit).",
)
@click.option(
    "--streamed",
    is_flag=True,
    default=None,
    help="Let weights stay in the host's memory, if the GPU's is too small.",
)
@click.option("--level", type=click.IntRange(0, 5), help="TensorRT: how long it looks for fast kernels (default: 3).")
@bundle_options
@config_option
def compile_engines(**options: Any) -> None:
    """Compile a bundle's graphs and keep the engines in the cache, for --backend tensorrt or tensorrt_rtx.

    TensorRT compiles for this GPU; TensorRT for RTX needs none, and makes one engine for several. Engines there already are
    kept; stopped in the middle it goes on with the next engine when it is run again.
    """
    from ..config.settings import CompilingSettings, settings
    from .compilation import compile_bundle

    options["backend"] = options["backend"] or ("tensorrt_rtx" if options["capabilities"] else "tensorrt")
    _finish(compile_bundle(settings(CompilingSettings, options, cache_dir())))


add_completion(cli, "dvgwm-runtime")


def _check_live(options: dict[str, Any]) -> None:
    """Raise `ConfigError` for a missing option of a real arm, or a given option of a simulated one."""
    for name, example in (
        ("robot", "galaxea_a1"),
        ("arm", "localhost:11311"),
        ("camera", "l515"),
        ("instruction", '"put the bread into the gray bowl"'),
    ):
        if not options[name]:
            raise ConfigError(
                "LIVE_OPTION", f"--live wants --{name} as well, such as --{name} {example}; nothing was moved"
            )
    for name in NOT_LIVE:
        if options[name]:
            raise ConfigError("USAGE", f"--{name.replace('_', '-')} does not go with --live; nothing was moved")


def _finish(result: dict[str, Any], stop: DvgwmError | None = None) -> None:
    """Print the result; raise the stop of an arm, or write the unfamiliar things to standard error.

    Those come last: an error's line is the first there.
    """
    sys.stdout.write(f"{json.dumps(result)}\n")  # not by click, which has streams of its own where there is ASCII only
    if stop is not None:
        raise stop
    sys.stdout.flush()
    for each in result.get("unfamiliar", ()):
        click.echo(printable(f"unfamiliar {each['what']}: {each['message']}"), err=True)
