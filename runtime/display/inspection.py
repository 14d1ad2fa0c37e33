"""The facts of a bundle, and of this machine."""

import importlib.util
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from .. import __version__, entries
from ..backends.onnx.packages import check_packages
from ..backends.tensorrt_rtx.build import gpus_of
from ..bundle.disk import Bundle, read_bundle
from ..bundle.manifest import Learned, Manifest, StageSpec
from ..config import plugins
from ..errors import printable
from ..files import leftovers
from ..pipeline import Pipeline
from ..stages import check_finite
from .latency import work
from .results import RUNS
from .tables import text_table

PARTS = {
    "cuda": ("memory and kernels of a GPU", "pip install 'dvgwm[cuda]'"),
    "mujoco": ("the simulated arm", "pip install 'dvgwm[sim]'"),
    "av": ("mp4 in and out (GIF without it)", "pip install 'dvgwm[video]'"),
    "cv2": ("V4L2 cameras", "pip install 'dvgwm[opencv]'"),
    "pyrealsense2": ("RealSense cameras", "pip install 'dvgwm[realsense]'"),
    "rtde_control": ("the real UR7e", "pip install 'dvgwm[ur]'"),
    "franky": ("the real Franka", "pip install 'dvgwm[franka]'"),
    "tokenizers": ("full-size text encoders", "pip install 'dvgwm[tokenizers]'"),
}


def show(path: Path, deep: bool = False) -> dict[str, Any]:
    """Print the contents of the bundle at ``path`` and return its facts; raises as `bundle.read_bundle`.

    ``deep`` loads every engine and runs it once on zeros; raises as they do, and `OutputError` for a value that is not finite.
    """
    bundle = read_bundle(path)
    manifest, console = bundle.manifest, Console()
    seconds = _run_engines(bundle) if deep else {}
    did = "every engine run once on zeros" if deep else "no engine was loaded: --deep runs each once"
    console.print(printable(f"{path}: every file verified, {did}"), markup=False, highlight=False, soft_wrap=True)
    console.print(_facts(manifest))
    console.print(_stages(manifest))
    console.print(_engines(manifest, seconds))
    console.print(_parity(manifest))
    return {
        "command": "inspect",
        "bundle": manifest.name,
        "backend": manifest.backend,
        "preset": manifest.model.preset,
        "trained": manifest.model.trained,
        "capabilities": sorted({each for made in manifest.compiled for each in made.building.capabilities}),
        "bytes": sum(record.size for record in manifest.files.values()),
        "stages": [stage.name for stage in manifest.pipeline],
        "verified": True,
        "deep": deep,
        "engines_s": seconds,
    }


def _run_engines(bundle: Bundle) -> dict[str, float]:
    """Return the seconds of every engine's first run on zeros, by file; it allocates, too."""
    seconds = {}
    with Pipeline(bundle, plugins.open_backend(bundle.manifest.backend, None)) as pipeline:
        for stage, file in track(pipeline.engine_files, "engines", console=Console(stderr=True), transient=True):
            started = time.perf_counter()
            outputs = pipeline.run_on_zeros(stage, file)
            pipeline.backend.synchronize()
            seconds[file] = time.perf_counter() - started
            for name, tensor in outputs.items():
                check_finite(pipeline.backend, stage.spec.name, f"{name} of {file}, given zeros,", tensor)
    return seconds


def diagnose(config: str) -> dict[str, Any]:
    """Print the parts of dvgwm for this machine, the defaults in ``config`` and the leftovers of killed commands; return all.

    Raises `ConfigError` if two parts overwrite each other.
    """
    parts = _engine_libraries() | PARTS
    found = {name: importlib.util.find_spec(name) is not None for name in parts}
    rows = [
        (name, "yes" if found[name] else "no", purpose, "" if found[name] else remedy)
        for name, (purpose, remedy) in parts.items()
    ]
    title = f"dvgwm {__version__} on {platform.platform(terse=True)}"
    table = text_table(title, ["part", "found", "for", "if wanted"], [], rows)
    console = Console()
    console.print(table)
    console.print(f"robots: {', '.join(entries.names('robots')) or 'none'}")
    console.print(f"backends: {', '.join(entries.names('backends')) or 'none'}")
    allowed = "allowed" if realtime() else "not allowed; where ticks come late, raise `ulimit -r` to 20"
    console.print(f"real-time priority of motion: {allowed}")
    console.print(f"config: {config}", markup=False, highlight=False)
    left = left_here()
    console.print(f"leftovers: {left}", markup=False, highlight=False)
    check_packages()
    return {
        "command": "doctor",
        "config": config,
        "leftovers": left,
        "version": __version__,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "realtime": realtime(),
        "libraries": found,
        "robots": entries.names("robots"),
        "backends": entries.names("backends"),
    }


def _engine_libraries() -> dict[str, tuple[str, str]]:
    """Return the purpose and the installation of each backend's library; two backends may share one."""
    found: dict[str, tuple[str, str]] = {}
    for name in entries.names("backends"):
        facts = plugins.backend_facts(name)
        if facts.library:
            purpose, remedy = found.get(facts.library, ("", "pip install"))
            more = f"{purpose}; {facts.purpose}" if purpose else facts.purpose
            found[facts.library] = (more, f"{remedy}{';' if purpose else ''} 'dvgwm[{facts.extra}]'")
    return found


def left_here() -> str:
    """Return the leftovers of killed commands in this directory, in words; they are not removed unasked."""
    found = [each for folder in (Path(), RUNS, Path("bundles")) for each in leftovers(folder)]
    left = ", ".join(str(path) for path, written in found if not written)
    written = ", ".join(str(path) for path, written in found if written)
    told = [f"left by commands that were killed: {left}; `rm -r` removes them"] if left else []
    told += [f"just being written: {written}"] if written else []
    return "; ".join(told) or "no command has left anything unfinished here"


def realtime() -> bool:
    """Return whether this user's processes may have real-time priority."""
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except (OSError, AttributeError):  # not allowed; another system
        return False
    os.sched_setscheduler(0, *before)
    return True


def _learned(learned: Learned | None) -> str:
    """Return a bundle's account of its training, in words."""
    if learned is None:
        return "not said: what is asked of it is not held against anything"
    first = next(iter(learned.sentences), None)
    sentences = f"{len(learned.sentences)} sentences of {len(learned.words)} words, such as {first!r}"
    usual = None if learned.pictures is None else learned.pictures.quantiles[-2]
    pictures = "no pictures" if usual is None else f"99 in 100 pictures within {usual:g} deviations"
    return f"{', '.join(learned.robots)}; cameras {', '.join(learned.cameras)}; {sentences}; {pictures}"


def _facts(manifest: Manifest) -> Table:
    table = Table(show_header=False)
    size = sum(record.size for record in manifest.files.values())
    camera, action = manifest.input, manifest.action
    rows = {
        "bundle": f"{manifest.name}, schema {manifest.schema}, by {manifest.builder}",
        "model": f"{manifest.model.preset} ({manifest.model.family}): {manifest.model.weights}",
        "trained": "yes" if manifest.model.trained else "NO: seeded random weights, the video is noise",
        "trained on": _learned(manifest.learned),
        "runs on": f"{manifest.backend}, {manifest.precision}"
        + "".join(f", {key} {value}" for key, value in manifest.fingerprint.items()),
        "camera": f"{camera.camera}: {camera.width_px} x {camera.height_px} RGB, imagines {camera.fps:g} frames/s",
        "actions": f"{action.space}: "
        + ", ".join(f"{n} [{u}]" for n, u in zip(action.names, action.units, strict=True)),
        "rates": f"replan every {manifest.rates.replan_every or 'never'}, act every {manifest.rates.act_every} actions",
        "text": f"{manifest.text.tokenizer}, at most {manifest.text.max_tokens} tokens",
        "engines inside": _compiled(manifest),
        "files": f"{len(manifest.files)} files, {size / 1e6:.1f} MB",
    }
    for name, value in rows.items():
        table.add_row(name, escape(printable(value)))
    return table


def _compiled(manifest: Manifest) -> str:
    """Return libraries, versions and GPUs of the engines that the bundle holds beside its graphs."""
    made = {
        f"{', '.join(f'{key} {value}' for key, value in engine.facts.items())}, for {gpus_of(engine.building)}"
        for engine in manifest.compiled
    }
    return "; ".join(sorted(made)) or "none: its graphs run as they are, or are compiled on the robot PC"


def _stages(manifest: Manifest) -> Table:
    rows = [
        (stage.name, ", ".join(dict.fromkeys(stage.inputs.values())), stage.output, _sampler(stage))
        for stage in manifest.pipeline
    ]
    return text_table("pipeline", ["stage", "reads", "makes", "sampler"], [], rows)


def _engines(manifest: Manifest, seconds: Mapping[str, float]) -> Table:
    rows = [
        (
            engine.file,
            stage.name,
            work(engine.flop),
            f"{manifest.files[engine.file].size / 1e6:.2f}",
            f"{seconds[engine.file] * 1e3:.1f}" if engine.file in seconds else "not run",
        )
        for stage in manifest.pipeline
        for engine in stage.engines.values()
    ]
    return text_table("engines", ["file", "stage"], ["work of a run", "MB", "first run, ms"], rows)


def _sampler(stage: StageSpec) -> str:
    if stage.sampler is None:
        return ""
    return f"{stage.sampler.kind}, {stage.sampler.steps} steps, guidance {stage.sampler.guidance:g}"


def _parity(manifest: Manifest) -> Table:
    rows = [
        (name, f"{p.max_abs:.2e}", f"{p.relative_l2:.2e}", f"{p.cosine:.7f}", f"{p.tolerance:.0e}", f"{p.control:.2e}")
        for name, p in manifest.parity.items()
    ]
    columns = ["max abs", "relative L2", "cosine", "tolerance", "other seed"]
    return text_table("measured against the torch reference", ["what"], columns, rows)
