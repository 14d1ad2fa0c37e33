"""The display of `build_engines.py`: progress, a table of parity, the command to run the bundle."""

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dvgwm.models.precision import SHORT
from dvgwm.runtime import entries
from dvgwm.runtime.backends.tensorrt_rtx.build import capabilities_of
from dvgwm.runtime.bundle.disk import MANIFEST
from dvgwm.runtime.bundle.manifest import Manifest, Parity
from dvgwm.runtime.commands.line import cache_dir
from dvgwm.runtime.commands.program import exit_code
from dvgwm.runtime.config.plugins import backend_facts
from dvgwm.runtime.config.plugins import shipped as shipped_bundle
from dvgwm.runtime.display.memory import sizes_table
from dvgwm.runtime.display.tables import text_table
from dvgwm.runtime.errors import ConfigError, printable
from dvgwm.runtime.profiler import peak_memory_bytes

from .assembly import Outcome, build_bundle
from .order import STEPS, Order, read_instructions
from .tensorrt_operators import LIST

_M_MMAP_THRESHOLD, _BLOCK_BYTES = -3, 1 << 20


def run(options: argparse.Namespace) -> int:
    """Build, print the facts as a line of JSON, and return the exit code."""

    def build() -> None:
        _free_at_once()
        result = _run(options, Console())
        sys.stdout.write(f"{json.dumps(result)}\n")

    return exit_code("build_engines.py", build)


def _free_at_once() -> None:
    """Have glibc give freed tensors back to the system: up to 32 MiB it keeps them, a quarter of a large decoder's peak."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)


def _run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    started = time.perf_counter()
    order = Order(
        options.preset,
        options.backend,
        options.out or Path("engines") / options.preset,
        options.random_weights or 0,
        _steps(options.steps),
        read_instructions(options.instructions) if options.instructions else (),
        _precision(options),
        _weights(options),
        options.layers,
        options.frames,
        options.base,
        options.preview_lora,
        options.lora_alpha,
        not options.no_text_encoder,
        tuple(options.engines.split(",")) if options.engines else (),
        options.static,
        options.calibrate,
        cache_dir(),
        options.trained_on,
        capabilities_of(options.capabilities) if options.capabilities else (),
    )
    given = [str(path) for path in (order.base, order.lora, order.weights) if path]
    source = f"weights from {', '.join(given)}" if given else "seeded random weights, untrained"
    line = printable(f"{order.preset} for {order.backend} in {order.precision} into {order.out}: {source}")
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    with _progress(console) as progress:
        tasks = {step: progress.add_task(step, total=None, start=False, part="") for step in order.steps}

        def tell(line: str) -> None:
            progress.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

        def report(step: str, part: str, done: int, total: int) -> None:
            if not console.is_terminal and part:
                tell(f"{time.perf_counter() - started:7.0f} s {step} {done + 1} of {total}: {part}")
            if done == 0:
                progress.start_task(tasks[step])
            progress.update(tasks[step], completed=done, total=total, part=part)
            if done == total:
                progress.stop_task(tasks[step])

        outcome = build_bundle(order, report, tell)
    _show(console, order, outcome)
    return {
        "command": "build",
        "preset": order.preset,
        "backend": order.backend,
        "precision": order.precision,
        "out": str(order.out) if outcome.bundle else None,
        "made": outcome.made,
        "reused": outcome.reused,
        "median_s": outcome.seconds,
        "wall_s": time.perf_counter() - started,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _precision(options: argparse.Namespace) -> str:
    """Return the precision that was named, else the backend's own; `Order.checked` tells an unknown backend."""
    if options.precision is not None:
        return SHORT.get(options.precision, options.precision)
    usual = backend_facts(options.backend).precision if options.backend in entries.names("backends") else None
    return usual or "float32"


def _weights(options: argparse.Namespace) -> Path | None:
    """Return the folder of trained networks: the one named, else the shipped bundle's, unless random ones are wanted."""
    shipped = shipped_bundle(options.preset)
    if options.weights is None and options.random_weights is None and (shipped / MANIFEST).is_file():
        return shipped
    return options.weights


def _steps(text: str) -> tuple[str, ...]:
    asked = text.split(",")
    if not set(asked) <= set(STEPS):
        raise ConfigError("STEPS", f"wanted steps of {','.join(STEPS)}; got {text!r}")
    last = max(STEPS.index(step) for step in asked)
    return STEPS[: last + 1]


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>9}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[part]}"),
        console=console,
    )


def _table(parity: Mapping[str, Parity]) -> Any:
    rows = [
        (name, p.measure.replace("_", " "), *(f"{x:.1e}" for x in (p.max_abs, p.relative_l2, p.tolerance, p.control)))
        for name, p in parity.items()
    ]
    columns = ["max abs", "relative L2", "tolerance", "other seed"]
    title = "against the torch reference: the gates that were passed"
    return text_table(title, ["what", "measured in"], columns, rows)


def _show_built(console: Console, manifest: Manifest, refused: Mapping[str, Sequence[str]]) -> None:
    """Print a robot PC's prospects with graphs not verified here: TensorRT's operators, and memory."""
    found = [f"{name}: {reason}" for name, reasons in refused.items() for reason in reasons]
    all_taken = f"all {len(refused)} graphs have operators that are on the list of {LIST}"
    for line in found or [all_taken]:
        console.print(f"TensorRT: {line}" if found else line, markup=False, highlight=False, soft_wrap=True)
    console.print(sizes_table(manifest))


def _show(console: Console, order: Order, outcome: Outcome) -> None:
    parity = outcome.bundle.manifest.parity if outcome.bundle else outcome.parity
    if parity:
        console.print(_table(parity))
    if outcome.manifest is not None and order.format == "onnx":
        _show_built(console, outcome.manifest, outcome.unsupported)
    if outcome.bundle is None:
        console.print(f"stopped after {order.steps[-1]}; run again without --steps to go on from there")
        return
    for name, seconds in outcome.seconds.items():
        console.print(f"{name:>14} {seconds * 1e3:9.1f} ms")
    model = outcome.bundle.manifest.model
    console.print(f"Weights: {model.weights}", highlight=False)
    if not model.trained:
        console.print("Not all of them are [bold]trained[/bold]: its video is noise and its actions mean nothing.")
    chosen = "" if order.format == order.backend else f" --backend {order.backend}"
    line = f"Use it: dvgwm-runtime --robot galaxea_a1 --bundle {order.out}{chosen}"
    console.print(line, soft_wrap=True, markup=False, highlight=False)
