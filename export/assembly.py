"""From a preset to a verified bundle: export, build, verify, write, benchmark."""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from dvgwm.models.networks import Networks, build
from dvgwm.models.precision import precision
from dvgwm.models.presets import LinearCodecSize, Preset
from dvgwm.models.presets import preset as find_preset
from dvgwm.models.weights import load_parts, save_exactly
from dvgwm.runtime import __version__
from dvgwm.runtime.backends.backend import Backend, EngineSpec
from dvgwm.runtime.bundle.disk import MANIFEST, Bundle, read_bundle, record_of, write_bundle
from dvgwm.runtime.bundle.manifest import Manifest, Parity, parse
from dvgwm.runtime.bundle.prompts import PROMPTS_FILE, save_prompts
from dvgwm.runtime.bundle.tokenizer import check_instruction
from dvgwm.runtime.config import plugins
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.profiler import Profiler
from dvgwm.runtime.types import Observation

from .aoti import export_package, traced, write_weights
from .describe import card_of, describe
from .graphs import ALWAYS_FLOAT32, Graph, graphs
from .interface import engine_spec
from .onnx_graph import check_graph, export_onnx
from .shared_weights import Place, places
from .verify import engine_parity, gate_of, plan_parity
from .workshop import Workshop

STEPS = ("export", "build", "verify", "benchmark")
BACKENDS = ("onnx", "torch")
Report = Callable[[str, str, int, int], None]
"""Called with a step, what it works on, how many parts are done and how many there are."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to build: ``steps`` is how far to go; ``instructions`` are precomputed into the bundle.

    ``weights`` is a folder of trained networks; those that it lacks are random, from ``seed``.
    """

    preset: str
    backend: str
    out: Path
    seed: int
    steps: tuple[str, ...] = STEPS
    instructions: tuple[str, ...] = ()
    precision: str = "float32"
    weights: Path | None = None


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
    backend = plugins.open_backend(order.backend, None)
    networks = build(preset, order.seed)
    weights, trained = _weights(order, networks)
    reference = graphs(preset, networks)
    parts = reference if order.backend == "onnx" else graphs(preset, networks, precision(order.precision))
    card = card_of(preset, networks, weights, trained)
    versions = {"torch": str(torch.__version__), "dvgwm": __version__, "source": source_hash()} | dict(
        backend.fingerprint
    )
    facts = [repr(preset), card.hashes, versions, order.precision]
    work = Workshop.open(order.out.with_name(f".{order.out.name}.build"), facts)
    files, made = _export(parts, networks, work, report)
    if order.steps[-1] == "export":
        return Outcome(None, made, _reused(files, made), {})
    specs = _build(parts, reference, files, report)
    if order.steps[-1] == "build":
        return Outcome(None, made, _reused(files, made), {})
    manifest = describe(preset, specs, card, order.backend, order.precision, backend.fingerprint)
    bundle = _verified(order, manifest, reference, files, work, backend, report)
    work.clear()
    seconds = _benchmark(bundle, report) if "benchmark" in order.steps else {}
    return Outcome(bundle, made, _reused(files, made), seconds)


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


def _weights(order: Order, networks: Networks) -> tuple[str, bool]:
    """Take up trained weights, and return where the networks' come from and whether all of them are trained.

    A bundle's are what its manifest says of them.
    """
    random = f"seeded random weights (seed {order.seed}), untrained"
    if order.weights is None:
        return random, False
    found = load_parts(networks, order.weights)
    if (order.weights / MANIFEST).is_file():
        card = parse((order.weights / MANIFEST).read_bytes()).model
        return card.weights, card.trained and set(found) == set(networks.parts())
    left = [name for name in networks.parts() if name not in found]
    told = f"trained {', '.join(found)}"
    return (f"{told}; {', '.join(left)} from {random}", False) if left else (told, True)


def _checked(order: Order) -> Preset:
    preset = find_preset(order.preset)
    if order.backend not in BACKENDS:
        raise ConfigError("BACKEND_BUILD", f"wanted --backend {' or '.join(BACKENDS)}; got {order.backend!r}")
    if order.backend == "onnx" and order.precision != "float32":
        raise ConfigError(
            "PRECISION",
            f"wanted --precision float32 for onnx in this version, got {order.precision!r}; or --backend torch",
        )
    precision(order.precision)
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


def _export(
    parts: Sequence[Graph], networks: Networks, work: Workshop, report: Report
) -> tuple[dict[str, Path], tuple[str, ...]]:
    files, made = {}, []

    def product(name: str, write: Callable[[Path], None]) -> None:
        files[name], new = work.product(name, write)
        made.extend([name] if new else [])

    stored: Mapping[bytes, Place] = {}
    if parts[0].suffix == "onnx":
        for name, network in networks.parts().items():
            product(f"{name}.safetensors", partial(save_exactly, network))
        stored = places(files.values())
    for index, graph in enumerate(parts):
        report("export", graph.name, index, len(parts))
        for name, write in _products(graph, stored).items():
            product(name, write)
    report("export", "", len(parts), len(parts))
    return files, tuple(made)


def _products(graph: Graph, stored: Mapping[bytes, Place]) -> dict[str, Callable[[Path], None]]:
    """Return what writes each file of ``graph``; an ONNX graph's weights are ``stored`` in the networks' files."""
    if graph.suffix == "onnx":

        def write(path: Path) -> None:
            export_onnx(graph.module, graph.inputs, graph.outputs, graph.dynamic, path, graph.opset, stored)

        return {graph.file: write}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    program = cache(lambda: traced(graph.module, graph.inputs, graph.dynamic, device))
    return {
        graph.file: lambda path: export_package(program(), path),
        graph.weights: lambda path: write_weights(program(), graph.inputs, path),
    }


def _build(
    parts: Sequence[Graph], reference: Sequence[Graph], files: dict[str, Path], report: Report
) -> dict[str, EngineSpec]:
    """Check every graph and state its interface; the work is counted on the reference, operator by operator."""
    specs = {}
    for index, (graph, plain) in enumerate(zip(parts, reference, strict=True)):
        report("build", graph.name, index, len(parts))
        if graph.suffix == "onnx":
            check_graph(files[graph.file])
        spec = engine_spec(plain)
        specs[graph.name] = spec if graph is plain else replace(engine_spec(graph), flop=spec.flop)
    report("build", "", len(parts), len(parts))
    return specs


def _verified(
    order: Order,
    manifest: Manifest,
    parts: tuple[Graph, ...],
    files: dict[str, Path],
    work: Workshop,
    backend: Backend,
    report: Report,
) -> Bundle:
    parity: dict[str, Parity] = {}
    limits = gate_of(precision(order.precision))
    exact = gate_of(precision("float32"))
    specs = {Path(engine.file).stem: engine for stage in manifest.pipeline for engine in stage.engines.values()}
    for index, graph in enumerate(parts):
        report("verify", graph.name, index, len(parts) + 1)
        spec = specs[graph.name]
        bounds = exact if graph.name in ALWAYS_FLOAT32 else limits
        parity |= engine_parity(graph, backend, files[spec.file], spec, bounds)
    report("verify", "plan and actions", len(parts), len(parts) + 1)
    records = {name: record_of(path) for name, path in files.items()}
    draft = Bundle(work.path, replace(manifest, files=records))
    parity |= plan_parity(draft, backend, parts, limits)
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
    backend = plugins.open_backend(bundle.manifest.backend, None)
    with Pipeline(read_bundle(bundle.path, bundle.manifest.backend), backend) as pipeline:
        pipeline.warmup()
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


def _reused(files: dict[str, Path], made: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in files if name not in made)


def source_hash() -> str:
    """Return the sha256 of the code that makes the graphs, so that no product outlives a change of it."""
    return _hash("dvgwm.models", "dvgwm.export", "dvgwm.kernels")


def _hash(*packages: str) -> str:
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted(resources.files(package).iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".py"):
                digest.update(file.read_bytes())
    return digest.hexdigest()
