"""`dvgwm-train`: the command line of training. Everything that prints, reads the environment or exits is here."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dvgwm.runtime.errors import ConfigError, DvgwmError, InternalError, InterruptedRunError

EPILOG = """\b
From nothing to a policy that acts (each command goes on where it was stopped):
  dvgwm-train data --episodes 2000 --seed 0 --out runs/a1_sim
  dvgwm-train policy --run a1_tiny --minutes 40
  dvgwm-train upper-bound --run a1_tiny --episodes 100 --seed 900000
"""

Positive = click.IntRange(min=1)


@click.group(epilog=EPILOG, context_settings={"max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def cli(debug: bool) -> None:
    """Record demonstrations and train what a bundle ships. The last line of standard output is JSON."""


def run_options(command: Any) -> Any:
    """Add the options that choose a run and where it is kept."""
    options = (
        click.option("--run", "name", default="a1_tiny", show_default=True, help="Shipped run, or a .toml file."),
        click.option("--out", type=click.Path(path_type=Path), help="Folder of the run (default: the run's own)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def loop_options(command: Any) -> Any:
    """Add the options of a training loop."""
    options = (
        click.option("--minutes", type=click.FloatRange(min=0.01), help="Train for so long in all, not by steps."),
        click.option("--steps", type=Positive, help="Train for so many steps (default: the run's)."),
        click.option(
            "--from", "start", type=click.Path(path_type=Path), help="Start from the networks in this folder."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return run_options(command)


@cli.command()
@click.option("--episodes", type=Positive, default=2000, show_default=True, help="A multiple of 25.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the layouts.")
@click.option("--workers", type=Positive, default=os.cpu_count(), show_default="cores", help="Processes.")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Read these demonstrations instead.")
@click.option("--camera", help="With --from: the camera to keep (default: the first).")
@click.option(
    "--size", type=(Positive, Positive), default=(128, 192), show_default=True, help="With --from: height, width."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/a1_sim"), show_default=True)
def data(
    episodes: int, seed: int, workers: int, source: Path | None, camera: str | None, size: tuple[int, int], out: Path
) -> None:
    """Record demonstrations as a LeRobot v3.0 data set with arrays beside it.

    The scripted expert on the simulated Galaxea A1: five tasks in turn, each episode on a layout of its own, both
    cameras, ten frames a second, the last fifth of the layouts for tests. With --from a folder is read: a LeRobot data
    set (v2.1 or v3.0), or LIBERO's HDF5 files, whose every fifth task is for tests.
    """
    from . import data as recording

    # The renderer's threads would fight over cores that the other workers have.
    for name in ("LP_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    began = time.monotonic()
    with Bar("episodes") as report:
        if source is None:
            census = recording.record_simulation(out, episodes, seed, workers, report)
        else:
            census = recording.record_from(source, camera, size, out, report)
    _finish({"command": "data", "out": str(out), **asdict(census), "wall_s": time.monotonic() - began})


@cli.command()
@run_options
def codec(name: str, out: Path | None) -> None:
    """Fit the linear codecs of a small preset on demonstrations, one for each resolution."""
    from .parts import fit_codecs

    with Bar("codecs") as report:
        _finish({"command": "codec"} | fit_codecs(_run(name, out), report))


@cli.command()
@loop_options
def policy(name: str, out: Path | None, minutes: float | None, steps: int | None, start: Path | None) -> None:
    """Train frame encoder and policy on demonstrations: true frames, disturbed, to actions."""
    run = _run(name, out)
    from .parts import train_policy

    with StepsBar("policy") as report:
        _finish({"command": "policy"} | train_policy(run, report, minutes, steps, start))


@cli.command()
@loop_options
def preview(name: str, out: Path | None, minutes: float | None, steps: int | None, start: Path | None) -> None:
    """Train the preview: instruction and first frame to low-resolution latents (v-prediction)."""
    _world_model("preview", name, out, minutes, steps, start)


@cli.command()
@loop_options
def refiner(name: str, out: Path | None, minutes: float | None, steps: int | None, start: Path | None) -> None:
    """Train the refiner: degraded latents to high-resolution ones (flow matching). Wants the preview's text encoder."""
    _world_model("refiner", name, out, minutes, steps, start)


@cli.command()
@loop_options
def joint(name: str, out: Path | None, minutes: float | None, steps: int | None, start: Path | None) -> None:
    """Train refiner and policy together by the policy's loss alone. Wants both."""
    _world_model("joint", name, out, minutes, steps, start)


def _world_model(
    part: str, name: str, out: Path | None, minutes: float | None, steps: int | None, start: Path | None
) -> None:
    run = _run(name, out)
    from . import parts

    with Bar("latents") as counted, StepsBar(part) as report:
        train = {"preview": parts.train_preview, "refiner": parts.train_refiner, "joint": parts.train_joint}[part]
        _finish({"command": part} | train(run, report, minutes, steps, start, counted))


@cli.command("upper-bound")
@run_options
@click.option("--episodes", type=Positive, default=100, show_default=True, help="In all, spread over the tasks.")
@click.option("--seed", type=int, default=900_000, show_default=True, help="Seed of the first layout.")
@click.option("--weights", type=click.Path(path_type=Path), help="Folder of weights (default: the run's).")
@click.option("--bundle", type=click.Path(path_type=Path), help="Act with this bundle's engines instead.")
@click.option("--json", "only_json", is_flag=True, help="Print the last line only.")
def upper_bound(
    name: str, out: Path | None, episodes: int, seed: int, weights: Path | None, bundle: Path | None, only_json: bool
) -> None:
    """Play the policy on the true future: a scripted expert's video of the same layout.

    What is missing here no better imagination can mend.
    """
    from .parts import measure_upper_bound

    with Bar("episodes", quiet=only_json) as report:
        _finish(
            {"command": "upper-bound"} | measure_upper_bound(_run(name, out), episodes, seed, weights, bundle, report)
        )


@cli.command()
@run_options
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Folder of the weights (default: in the run's).")
@click.option("--bundle", type=click.Path(path_type=Path), help="Build an ONNX bundle from them here, verified.")
def export(name: str, out: Path | None, folder: Path | None, bundle: Path | None) -> None:
    """Collect what is trained as half-precision weights, and build a bundle from them.

    What is not trained yet stays random in the bundle, which says so.
    """
    from .parts import collect

    run = _run(name, out)
    target = folder or run.out / "weights"
    made = collect(run, target)
    if bundle is not None:
        from dvgwm.export.build import Order, build_bundle

        with Bar("graphs") as report:
            order = Order(run.preset.name, "onnx", bundle, run.seed, weights=target)
            build_bundle(order, lambda step, part, done, total: report(done, total))
    _finish({"command": "export", "weights": str(target), "trained": made, "bundle": bundle and str(bundle)})


def _run(name: str, out: Path | None) -> Any:
    from .config import read_run

    return read_run(name, out)


class Bar:
    """Within it, a bar that counts; a terminal sees it move, a log sees a line now and then."""

    def __init__(self, words: str, quiet: bool = False) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._console = Console(stderr=True, quiet=quiet)
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task, self._words, self._told = self._progress.add_task(words, total=None), words, 0.0

    def __enter__(self) -> Callable[[int, int], None]:
        self._progress.start()
        return self._report

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _report(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)
        if not self._console.is_terminal and (time.monotonic() - self._told > 15 or done == total):
            self._told = time.monotonic()
            self._console.print(f"{self._words} {done} of {total}", highlight=False)


class StepsBar:
    """Within it, a line that tells loss, rate and time left of a training loop."""

    def __init__(self, words: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.fields[told]}"))
        self._console = Console(stderr=True)
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task, self._words, self._told = self._progress.add_task(words, total=1.0, told=""), words, 0.0

    def __enter__(self) -> Callable[[Any], None]:
        self._progress.start()
        return self._report

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _report(self, now: Any) -> None:
        told = f"step {now.step}, loss {now.loss:.4f}, {now.samples_per_s:.1f} samples/s, {now.seconds_left / 60:.1f} min left"
        self._progress.update(self._task, completed=now.share, told=told)
        if not self._console.is_terminal and time.monotonic() - self._told > 15:
            self._told = time.monotonic()
            self._console.print(f"{self._words}: {told}", highlight=False)


def _finish(result: dict[str, Any]) -> None:
    click.echo(json.dumps(result))


def main() -> NoReturn:
    """Run the command line and exit with the code of `errors` that fits."""
    try:
        with cli.make_context("dvgwm-train", sys.argv[1:]) as context:
            cli.invoke(context)
        code = 0
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except KeyboardInterrupt:
        code = _report(InterruptedRunError("INTERRUPTED", "stopped; run it again to go on from the last checkpoint"))
    except click.ClickException as error:
        code = _report(ConfigError("USAGE", f"{error.format_message()} See `dvgwm-train --help`"))
    except DvgwmError as error:
        code = _report(error)
    except Exception as error:
        code = _report(
            InternalError("INTERNAL", f"{type(error).__name__}: {error}; run again with --debug and report it")
        )
    sys.exit(code)


def _report(error: DvgwmError) -> int:
    click.echo(error.line, err=True)
    if "--debug" in sys.argv:
        traceback.print_exc()
    return error.exit_code
