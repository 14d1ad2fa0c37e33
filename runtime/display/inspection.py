"""What people ask about a bundle and about this machine."""

import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .. import __version__
from ..bundle.disk import read_bundle
from ..bundle.manifest import Manifest, StageSpec
from ..config import plugins
from .latency import work

LIBRARIES = {
    "onnxruntime": ("engines on the CPU", "pip install 'dvgwm[onnx]'"),
    "mujoco": ("the simulated arm", "pip install 'dvgwm[sim]'"),
    "av": ("mp4 in and out (GIF without it)", "pip install 'dvgwm[video]'"),
    "tokenizers": ("full-size text encoders", "pip install 'dvgwm[tokenizers]'"),
    "torch": ("building bundles; never needed to run one", "pip install 'dvgwm[export]'"),
}


def show(path: Path) -> dict[str, Any]:
    """Print what the bundle at ``path`` holds and return its facts; raises as `bundle.read_bundle`."""
    manifest = read_bundle(path).manifest
    console = Console()
    console.print(f"{path}: every file verified", markup=False, highlight=False, soft_wrap=True)
    console.print(_facts(manifest))
    console.print(_stages(manifest))
    console.print(_engines(manifest))
    console.print(_parity(manifest))
    return {
        "command": "inspect",
        "bundle": manifest.name,
        "backend": manifest.backend,
        "preset": manifest.model.preset,
        "trained": manifest.model.trained,
        "bytes": sum(record.size for record in manifest.files.values()),
        "stages": [stage.name for stage in manifest.pipeline],
        "verified": True,
    }


def diagnose() -> dict[str, Any]:
    """Print which parts of dvgwm this machine can run and return them."""
    table = Table(title=f"dvgwm {__version__} on {platform.platform(terse=True)}", title_justify="left")
    for column in ("part", "found", "for", "if wanted"):
        table.add_column(column)
    found = {name: importlib.util.find_spec(name) is not None for name in LIBRARIES}
    for name, (purpose, remedy) in LIBRARIES.items():
        table.add_row(name, "yes" if found[name] else "no", purpose, "" if found[name] else escape(remedy))
    console = Console()
    console.print(table)
    console.print(f"robots: {', '.join(plugins.names('robots')) or 'none'}")
    console.print(f"backends: {', '.join(plugins.names('backends')) or 'none'}")
    return {
        "command": "doctor",
        "version": __version__,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "libraries": found,
        "robots": plugins.names("robots"),
        "backends": plugins.names("backends"),
    }


def _facts(manifest: Manifest) -> Table:
    table = Table(show_header=False)
    table.add_column()
    table.add_column()
    size = sum(record.size for record in manifest.files.values())
    camera, action = manifest.input, manifest.action
    rows = {
        "bundle": f"{manifest.name}, schema {manifest.schema}, by {manifest.builder}",
        "model": f"{manifest.model.preset} ({manifest.model.family}): {manifest.model.weights}",
        "trained": "yes" if manifest.model.trained else "NO: seeded random weights, the video is noise",
        "runs on": f"{manifest.backend}, {manifest.precision}"
        + "".join(f", {key} {value}" for key, value in manifest.fingerprint.items()),
        "camera": f"{camera.camera}: {camera.width_px} x {camera.height_px} RGB, imagines {camera.fps:g} frames/s",
        "actions": f"{action.space}: "
        + ", ".join(f"{n} [{u}]" for n, u in zip(action.names, action.units, strict=True)),
        "rates": f"replan every {manifest.rates.replan_every or 'never'}, act every {manifest.rates.act_every} actions",
        "text": f"{manifest.text.tokenizer}, at most {manifest.text.max_tokens} tokens",
        "files": f"{len(manifest.files)} files, {size / 1e6:.1f} MB",
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _stages(manifest: Manifest) -> Table:
    table = Table(title="pipeline", title_justify="left")
    for column in ("stage", "reads", "makes", "sampler"):
        table.add_column(column, overflow="fold")
    for stage in manifest.pipeline:
        table.add_row(stage.name, ", ".join(dict.fromkeys(stage.inputs.values())), stage.output, _sampler(stage))
    return table


def _engines(manifest: Manifest) -> Table:
    table = Table(title="engines", title_justify="left")
    for column in ("file", "stage", "work of a run", "MB"):
        table.add_column(column, justify="right" if column in ("MB", "work of a run") else "left")
    for stage in manifest.pipeline:
        for engine in stage.engines.values():
            size = manifest.files[engine.file].size
            table.add_row(engine.file, stage.name, work(engine.flop), f"{size / 1e6:.2f}")
    return table


def _sampler(stage: StageSpec) -> str:
    if stage.sampler is None:
        return ""
    return f"{stage.sampler.kind}, {stage.sampler.steps} steps, guidance {stage.sampler.guidance:g}"


def _parity(manifest: Manifest) -> Table:
    table = Table(title="measured against the torch reference", title_justify="left")
    for column in ("what", "max abs", "relative L2", "cosine", "tolerance", "other seed"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, parity in manifest.parity.items():
        table.add_row(
            name,
            f"{parity.max_abs:.2e}",
            f"{parity.relative_l2:.2e}",
            f"{parity.cosine:.7f}",
            f"{parity.tolerance:.0e}",
            f"{parity.control:.2e}",
        )
    return table
