"""From a preset to a verified bundle: export, build, verify, write, benchmark."""

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from dvgwm.models.build import build
from dvgwm.models.presets import LinearCodecSize, Preset
from dvgwm.models.presets import preset as find_preset
from dvgwm.runtime import __version__
from dvgwm.runtime.backend import EngineSpec
from dvgwm.runtime.backends.onnx import open_backend
from dvgwm.runtime.bundle import Bundle, read_bundle, record_of, write_bundle
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.manifest import Manifest, Parity
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.profiler import Profiler
from dvgwm.runtime.prompts import PROMPTS_FILE, save_prompts
from dvgwm.runtime.tokenizer import check_instruction
from dvgwm.runtime.types import Observation

from .describe import card_of, describe
from .graphs import Graph, graphs
from .interface import engine_spec
from .onnx_graph import check_graph, export_onnx
from .steps import Workshop
from .verify import engine_parity, plan_parity

STEPS = ("export", "build", "verify", "benchmark")
Report = Callable[[str, str, int, int], None]
"""Called with a step, what it works on, how many parts are done and how many there are."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to build: ``steps`` is how far to go; ``instructions`` are precomputed into the bundle."""

    preset: str
    backend: str
    out: Path
    seed: int
    steps: tuple[str, ...] = STEPS
    instructions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was built: the bundle (none before the verify step), and median seconds per stage from the benchmark."""

    bundle: Bundle | None
    made: tuple[str, ...]
    reused: tuple[str, ...]
    seconds: dict[str, float]


def build_bundle(order: Order, report: Report) -> Outcome:
    """Return the outcome of ``order``; raises `ConfigError` for what cannot be built, `ParityError` for a failed gate.

    Products are kept beside ``out`` until the bundle is written, so that a stopped build goes on where it was.
    """
    preset = _checked(order)
    networks = build(preset, order.seed)
    parts = graphs(preset, networks)
    weights = f"seeded random weights (seed {order.seed}), untrained"
    card = card_of(preset, networks, weights, trained=False)
    versions = {"torch": torch.__version__, "dvgwm": __version__, "source": source_hash()}
    work = Workshop.open(order.out.with_name(f".{order.out.name}.build"), [repr(preset), card.hashes, versions])
    files, made = _export(parts, work, report)
    if order.steps[-1] == "export":
        return Outcome(None, made, _reused(parts, made), {})
    specs = _build(parts, files, report)
    if order.steps[-1] == "build":
        return Outcome(None, made, _reused(parts, made), {})
    manifest = describe(preset, networks, specs, card, {})
    bundle = _verified(order, manifest, parts, files, work, report)
    work.clear()
    seconds = _benchmark(bundle, report) if "benchmark" in order.steps else {}
    return Outcome(bundle, made, _reused(parts, made), seconds)


def read_instructions(path: Path) -> tuple[str, ...]:
    """Return the instructions in a text file, one a line; raises `ConfigError` where it cannot be read or is empty."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("INSTRUCTIONS_FILE", f"cannot read {path}: {error}; give a text file") from None
    found = tuple(check_instruction(line) for line in lines if line and not line.startswith("#"))
    if not found:
        raise ConfigError("INSTRUCTIONS_FILE", f"{path} has no instruction; write one a line")
    return found


def _checked(order: Order) -> Preset:
    preset = find_preset(order.preset)
    if order.backend != "onnx":
        raise ConfigError(
            "BACKEND_BUILD", f"wanted --backend onnx, the one built in this version; got {order.backend!r}"
        )
    if not isinstance(preset.codec, LinearCodecSize) and preset.text.tokenizer != "bytes":
        raise ConfigError(
            "PRESET_SIZE",
            f"{preset.name} is full size, which this version does not export yet; take a1_tiny or test_tiny",
        )
    if order.out.exists() and not (order.out / "manifest.json").is_file() and any(order.out.iterdir()):
        raise ConfigError("OUT_OCCUPIED", f"{order.out} exists and is no bundle; name another directory with --out")
    if shutil.disk_usage(_existing(order.out)).free < 500e6:
        raise ConfigError(
            "DISK_FULL", f"wanted 500 MB free for {order.out}, found less; free some or choose another --out"
        )
    return preset


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.absolute().parent
    return path


def _export(parts: Sequence[Graph], work: Workshop, report: Report) -> tuple[dict[str, Path], tuple[str, ...]]:
    files, made = {}, []
    for index, graph in enumerate(parts):
        report("export", graph.name, index, len(parts))

        def write(path: Path, graph: Graph = graph) -> None:
            export_onnx(graph.module, graph.inputs, graph.outputs, graph.dynamic, path, graph.opset)

        files[graph.file], new = work.product(graph.file, write)
        made += [graph.file] if new else []
    report("export", "", len(parts), len(parts))
    return files, tuple(made)


def _build(parts: Sequence[Graph], files: dict[str, Path], report: Report) -> dict[str, EngineSpec]:
    """Check every graph and state its interface; ONNX Runtime needs no compilation beyond that."""
    specs = {}
    for index, graph in enumerate(parts):
        report("build", graph.name, index, len(parts))
        check_graph(files[graph.file])
        specs[graph.name] = engine_spec(graph)
    report("build", "", len(parts), len(parts))
    return specs


def _verified(
    order: Order, manifest: Manifest, parts: tuple[Graph, ...], files: dict[str, Path], work: Workshop, report: Report
) -> Bundle:
    backend = open_backend()
    parity: dict[str, Parity] = {}
    specs = {engine.file: engine for stage in manifest.pipeline for engine in stage.engines.values()}
    for index, graph in enumerate(parts):
        report("verify", graph.name, index, len(parts) + 1)
        parity |= engine_parity(graph, backend, files[graph.file], specs[graph.file])
    report("verify", "plan and actions", len(parts), len(parts) + 1)
    records = {name: record_of(path) for name, path in files.items()}
    draft = Bundle(work.path, replace(manifest, files=records))
    parity |= plan_parity(draft, backend, parts)
    report("verify", "", len(parts) + 1, len(parts) + 1)
    sources = dict(files)
    if order.instructions:
        with Pipeline(draft, backend) as pipeline:
            prompts = {words: pipeline.prompts.embed(words) for words in ("", *order.instructions)}
        save_prompts(work.path / PROMPTS_FILE, manifest.text, prompts)
        sources[PROMPTS_FILE] = work.path / PROMPTS_FILE
    return write_bundle(order.out, replace(manifest, parity=parity), sources)


def _benchmark(bundle: Bundle, report: Report, rounds: int = 3) -> dict[str, float]:
    contract = bundle.manifest.input
    image = np.full((contract.height_px, contract.width_px, 3), 127, np.uint8)
    seen = [Observation({contract.camera: image}, np.zeros(len(bundle.manifest.action.names)), 0.0)]
    times: dict[str, list[float]] = {}
    with Pipeline(read_bundle(bundle.path, "onnx"), open_backend()) as pipeline:
        for index in range(rounds):
            report("benchmark", f"plan {index + 1} of {rounds}", index, rounds)
            profiler, started = Profiler(), time.perf_counter()
            plan = pipeline.imagine(seen, "put the banana into the bowl", index, profiler)
            pipeline.act(plan, seen, plan.instruction, profiler)
            for span in profiler.spans:
                if span.depth == 0:
                    times.setdefault(span.name, []).append(span.duration_s)
            times.setdefault("plan", []).append(time.perf_counter() - started)
    report("benchmark", "", rounds, rounds)
    return {name: float(np.median(values)) for name, values in times.items()}


def _reused(parts: Sequence[Graph], made: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(graph.file for graph in parts if graph.file not in made)


def source_hash() -> str:
    """Return the sha256 of the code that makes the graphs, so that no product outlives a change of it."""
    digest = hashlib.sha256()
    for package in ("dvgwm.models", "dvgwm.export"):
        for file in sorted(resources.files(package).iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".py"):
                digest.update(file.read_bytes())
    return digest.hexdigest()
