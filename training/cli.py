"""`dvgwm-train`: the command line of training. It alone prints and reads the environment."""

import json
import os
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from dvgwm.runtime.commands.options import Number, PathOption, Positive, Seed
from dvgwm.runtime.commands.program import add_completion, run_program, together
from dvgwm.runtime.commands.supervisor import supervise

from .lines import Lines

EPILOG = """\b
From nothing to a policy that acts (each command goes on where it was stopped):
  dvgwm-train data --episodes 2000 --seed 0 --out runs/a1_sim
  dvgwm-train policy --run a1_tiny --minutes 40
  dvgwm-train upper-bound --run a1_tiny --episodes 100 --seed 900000
"""


@click.group(epilog=EPILOG, context_settings={"max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def cli(debug: bool) -> None:
    """Record demonstrations and train a bundle's networks. The last line of standard output is JSON."""


run_options = together(
    click.option("--run", "name", default="a1_tiny", show_default=True, help="Shipped run, or a .toml file."),
    click.option("--out", type=PathOption(), help="Folder of the run (default: the run's own)."),
)
"""What chooses a run and where it is kept."""

loop_options = together(
    run_options,
    click.option("--minutes", type=Number(min=0.01), help="Train for so long in all, not by steps."),
    click.option("--steps", type=Positive, help="Train for so many steps (default: the run's)."),
    click.option("--from", "start", type=PathOption(), help="Start from the networks in this folder."),
)
"""The options of a training loop."""


@cli.command()
@click.option("--episodes", type=Positive, default=8000, show_default=True, help="A multiple of 25.")
@click.option("--seed", type=Seed, default=0, show_default=True, help="Seed of the layouts.")
@click.option("--workers", type=Positive, default=os.cpu_count(), show_default="cores", help="Processes.")
@click.option("--from", "source", type=PathOption(), help="Read these demonstrations instead.")
@click.option("--camera", help="With --from: the camera to keep (default: the first).")
@click.option("--state", help="With --from: the feature that is the state (default: observation.state, else state).")
@click.option("--action", help="With --from: the feature that is the action (default: action, else actions).")
@click.option(
    "--size", type=(Positive, Positive), default=(128, 192), show_default=True, help="With --from: height, width."
)
@click.option("--out", type=PathOption(), default=Path("runs/a1_sim"), show_default=True)
def data(
    episodes: int,
    seed: int,
    workers: int,
    source: Path | None,
    size: tuple[int, int],
    out: Path,
    **features: str | None,
) -> None:
    """Record demonstrations as a LeRobot v3.0 data set with arrays beside it.

    The scripted expert on the simulated Galaxea A1: five tasks in turn, each episode on a layout of its own, both
    cameras, ten frames a second, the last fifth of the layouts for tests. With --from a folder is read: a LeRobot data
    set (v2.0, v2.1 or v3.0), or LIBERO's HDF5 files, every fifth task for tests. Each row of a LeRobot data set has the
    frame of its own time stamp; a disagreement is refused by its episode.
    """
    from . import data as recording

    # The renderer's threads would fight over cores that the other workers have; it draws in the worker's own.
    for name, threads in (("LP_NUM_THREADS", "0"), ("OMP_NUM_THREADS", "1"), ("OPENBLAS_NUM_THREADS", "1")):
        os.environ.setdefault(name, threads)
    began = time.monotonic()
    with Lines() as lines:
        report = lines.count("episodes")
        if source is None:
            census = recording.record_simulation(out, episodes, seed, workers, report)
        else:
            census = recording.record_from(source, size, out, report, **features)
    _finish({"command": "data", "out": str(out), **asdict(census), "wall_s": time.monotonic() - began})


@cli.command()
@run_options
def codec(name: str, out: Path | None) -> None:
    """Fit the linear codecs of a small preset on demonstrations, one for each resolution."""
    from .commands import fit_codecs

    with Lines() as lines:
        report = lines.count("codecs")
        _finish({"command": "codec"} | fit_codecs(_run(name, out), report))


PARTS = {
    "policy": "Train frame encoder and policy on demonstrations: true frames, disturbed, to actions.",
    "waypoints": "Train the waypoints: instruction and first frame to the path along which a small preview draws.",
    "preview": "Train the preview: instruction and first frame to low-resolution latents (v-prediction).\n\n"
    "Wants the waypoints if any.",
    "refiner": "Train the refiner: degraded latents to high-resolution ones (flow matching). Wants the preview.",
    "tune": "Let the policy go on learning, from what `imagine` wrote and as many true frames.",
    "joint": "Train refiner and tuned policy together by the policy's loss alone. Wants both.",
}
"""The parts that one loop trains, each a command of its own."""


def train(part: str, name: str, out: Path | None, **options: Any) -> None:
    """Train ``part`` of the run called ``name``."""
    run = _run(name, out)
    from .parts import train_part

    with Lines() as lines:
        result = train_part(run, part, lines.steps(part), lines.count("latents"), **options)
    _finish({"command": part} | result)


for _part, _help in PARTS.items():
    cli.command(_part, help=_help)(loop_options(partial(train, _part)))


@cli.command()
@run_options
@click.option("--episodes", type=Positive, default=500, show_default=True, help="A fifth of them held-out ones.")
def imagine(name: str, out: Path | None, episodes: int) -> None:
    """Write the preview's and refiner's videos of demonstrations, beside the experts' actions, as a data set.

    A policy learns on from it (`tune`): it has met imagined frames then.
    """
    run = _run(name, out)
    from . import commands, parts

    began = time.monotonic()
    with Lines() as lines:
        census = commands.imagine(run, episodes, lines.count("episodes"))
    _finish(
        {"command": "imagine", "out": str(parts.imagined(run)), **asdict(census), "wall_s": time.monotonic() - began}
    )


@cli.command("upper-bound")
@run_options
@click.option("--episodes", type=Positive, default=100, show_default=True, help="In all, spread over the tasks.")
@click.option("--seed", type=Seed, default=900_000, show_default=True, help="Seed of the first layout.")
@click.option("--weights", type=PathOption(), help="Folder of weights (default: the run's).")
@click.option("--bundle", type=PathOption(), help="Act with this bundle's engines instead.")
@click.option("--json", "only_json", is_flag=True, help="Print the last line only.")
def upper_bound(
    name: str, out: Path | None, episodes: int, seed: int, weights: Path | None, bundle: Path | None, only_json: bool
) -> None:
    """Play the policy on the true future: a scripted expert's video of the same layout.

    No better imagination can mend a failure here.
    """
    from .commands import measure_upper_bound

    with Lines(quiet=only_json) as lines:
        report = lines.count("episodes")
        _finish(
            {"command": "upper-bound"} | measure_upper_bound(_run(name, out), episodes, seed, weights, bundle, report)
        )


@cli.command()
@run_options
@click.option("--to", "folder", type=PathOption(), help="Folder of the weights (default: in the run's).")
@click.option("--bundle", type=PathOption(), help="Build an ONNX bundle from them here, verified.")
def export(name: str, out: Path | None, folder: Path | None, bundle: Path | None) -> None:
    """Collect the trained networks as half-precision weights, and build a bundle from them.

    Untrained networks stay random in the bundle, and it says so.
    """
    from .commands import collect

    run = _run(name, out)
    target = folder or run.out / "weights"
    names = collect(run, target)
    if bundle is not None:
        from dvgwm.export.assembly import build_bundle
        from dvgwm.export.order import Order
        from dvgwm.runtime.record.lerobot import INFO

        with Lines() as lines:
            counted = lines.count("graphs")
            trained_on = run.data.path if (run.data.path / INFO).is_file() else None
            order = Order(run.preset.name, "onnx", bundle, run.seed, weights=target, trained_on=trained_on)
            build_bundle(order, lambda step, part, done, total: counted(done, total))
    _finish({"command": "export", "weights": str(target), "trained": names, "bundle": bundle and str(bundle)})


add_completion(cli, "dvgwm-train")


def _run(name: str, out: Path | None) -> Any:
    from .config import read_run

    return read_run(name, out)


def _finish(result: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(result)}\n")


def main() -> NoReturn:
    """Run the command line and exit."""
    supervise(lambda: run_program("dvgwm-train", cli), "run it again to go on from what is written")
