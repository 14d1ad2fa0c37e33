"""Plans through the product: every engine of a setting compiled as by a user's build, then `Pipeline` on the bundle."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from dvgwm.export.aoti import export_package, traced, write_weights
from dvgwm.export.describe import describe, without_text_encoder
from dvgwm.export.graphs import fixed, graphs
from dvgwm.export.interface import engine_spec
from dvgwm.models.graph import Graph
from dvgwm.models.hollow import hollow
from dvgwm.models.networks import build, parameters
from dvgwm.models.precision import precision
from dvgwm.models.sizes import Preset
from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.backends.torch import open_backend
from dvgwm.runtime.bundle.disk import Bundle
from dvgwm.runtime.bundle.manifest import FileRecord, ModelCard
from dvgwm.runtime.bundle.prompts import PROMPTS_FILE, save_prompts
from dvgwm.runtime.files import write_atomic
from dvgwm.runtime.pipeline import RUN_ONCE, Pipeline
from dvgwm.runtime.profiler import Profiler
from dvgwm.runtime.types import Observation

from .code import ROOT
from .measure import Bench, forget_peak, peak, ratio
from .setting import fastest
from .size import size_of

ENGINES = (
    "preview", "refine", "decode_first", "decode_next", "encode_low", "encode_high", "frame_encoder", "policy",
    "modulate_preview", "modulate_refine",
)  # fmt: skip
INSTRUCTION = "put the banana into the bowl"
PAPER_S = 88.7
PLANS = 3


def run_plan(bench: Bench) -> None:
    """Build the lacking engines, then plan; the prompt's embedding is in the bundle, as after a product's first plan."""
    name = fastest(bench.rows.file, bench.rows.facts["gpu"], bench.preset, bench.has_fp8)
    folder = ROOT / "build" / "gpu" / f"{bench.preset}-{name}-{bench.rows.key}"
    folder.mkdir(parents=True, exist_ok=True)
    for engine in ENGINES:
        if bench.refused("engine", engine):
            continue
        with bench.trying("engine", engine):
            finished = folder / f"{engine}.json"
            if not finished.is_file():
                size = size_of(bench)
                graph, plain = graph_of(size, engine, bench, name), plain_graph_of(size, engine)
                # Last: where it is the engine is whole.
                write_atomic(finished, msgspec.json.encode(built(graph, plain, folder, bench.device)))
            if bench.rows.find("engine", engine) is None:  # there is one, where an earlier run built it
                figures = read_engine(finished).figures
                bench.row("engine", variant=engine, precision=name, **figures, loss="bounded")
    for variant in bench.wanted("plan", [name]):
        with bench.trying("plan", variant):
            measure(bench, variant, bundle_in(folder, size_of(bench), name))


def graph_of(size: Preset, engine: str, bench: Bench, name: str) -> Graph:
    """Return the graph of one engine with random weights, in the precision ``name``; other networks are cut short."""
    size = cut(size, engine)
    numbers = sum(parameters(part) for part in build(size, 0, "meta").parts().values())
    networks = build(size, 0, bench.place_for(numbers))
    return _named(size, engine, graphs(size, networks, precision(name)))


def plain_graph_of(size: Preset, engine: str) -> Graph:
    """Return the same in plain operators and without numbers: its work is counted on it."""
    return _named(size, engine, graphs(cut(size, engine), hollow(cut(size, engine)), modulated=True))


def _named(size: Preset, engine: str, made: Sequence[Graph]) -> Graph:
    return fixed(size, next(graph for graph in made if graph.name == engine))


def cut(size: Preset, engine: str) -> Preset:
    """Return ``size`` with one layer only in the networks of other engines: they need not fit beside it."""
    assert size.refiner is not None
    return replace(
        size,
        preview=size.preview if engine.endswith("preview") else replace(size.preview, layers=1),
        refiner=size.refiner if engine.endswith("refine") else replace(size.refiner, layers=1),
        text=replace(size.text, layers=1),
    )


@dataclass(frozen=True)
class Built:
    """An engine in the folder: its interface for the manifest, and the seconds and sizes of its build."""

    spec: EngineSpec
    figures: dict[str, float]


def read_engine(path: Path) -> Built:
    """Return the notes on an engine."""
    return msgspec.json.decode(path.read_bytes(), type=Built)


def built(graph: Graph, plain: Graph, folder: Path, device: str) -> Built:
    """Compile ``graph`` into ``folder``; its work is counted on ``plain``."""
    started = time.perf_counter()
    program = traced(graph.module, graph.inputs, graph.dynamic, torch.device(device))
    traced_s, started = time.perf_counter() - started, time.perf_counter()
    export_package(program, folder / graph.file)
    compiled_s, started = time.perf_counter() - started, time.perf_counter()
    write_weights(program, graph.inputs, folder / graph.weights)
    figures = {
        "traced_s": traced_s,
        "compiled_s": compiled_s,
        "written_s": time.perf_counter() - started,
        "package_bytes": (folder / graph.file).stat().st_size,
        "weight_bytes": (folder / graph.weights).stat().st_size,
    }
    return Built(replace(engine_spec(graph), flop=engine_spec(plain).flop), figures)


def bundle_in(folder: Path, size: Preset, name: str) -> Bundle:
    """Return the bundle of the engines in ``folder``, with a random embedding for its instruction.

    Raises FileNotFoundError if an engine was refused.
    """
    specs = {engine: read_engine(folder / f"{engine}.json").spec for engine in ENGINES}
    text = EngineSpec("text_encoder.pt2", (), (), {}, 0.0)  # which is left out
    card = ModelCard(size.name, size.family, "seeded random weights, untrained", False, {"text": "0" * 64})
    fingerprint = open_backend().fingerprint
    manifest = without_text_encoder(describe(size, specs | {"text_encoder": text}, card, "torch", name, fingerprint))
    rng = np.random.default_rng(0)
    shape = 1, size.text.max_tokens, size.text.width
    prompts = {words: rng.standard_normal(shape, np.float32) for words in ("", INSTRUCTION)}
    save_prompts(folder / PROMPTS_FILE, manifest.text, prompts)
    # Nobody else had these files in hand: what they are is not looked at.
    files = [PROMPTS_FILE, *(part for spec in specs.values() for part in (spec.file, spec.weights))]
    records = {file: FileRecord((folder / file).stat().st_size, "") for file in files}
    return Bundle(folder, replace(manifest, files=records))


def measure(bench: Bench, name: str, bundle: Bundle) -> None:
    """Record a few plans and their actions: the whole, the first one, and every stage by the product's own profile."""
    contract = bundle.manifest.input
    image = np.random.default_rng(1).integers(0, 256, (contract.height_px, contract.width_px, 3), np.uint8)
    seen = [Observation({contract.camera: image}, np.zeros(len(bundle.manifest.action.names)), 0.0)]
    forget_peak(bench.device)  # which the build of the engines made
    backend, started = open_backend(), time.perf_counter()
    with Pipeline(bundle, backend) as pipeline:
        loaded_s, started = time.perf_counter() - started, time.perf_counter()
        pipeline.warmup()
        warmup_s = time.perf_counter() - started
        profiles, walls = [], []
        for seed in range(PLANS + 1):
            profiler, started = Profiler(), time.perf_counter()
            plan = pipeline.imagine(seen, INSTRUCTION, seed, profiler)
            pipeline.act(plan, seen, INSTRUCTION, profiler)
            walls.append(time.perf_counter() - started)
            profiles.append(profiler)
        uncaptured = {
            engine.spec.file: engine.engine.uncaptured
            for stage in pipeline.stages
            for role, engine in stage.engines.items()
            if role not in RUN_ONCE and engine.engine.uncaptured
        }
    for stage in dict.fromkeys(span.name for span in profiles[0].spans if span.depth == 0):
        times = [sum(s.duration_s for s in p.spans if s.depth == 0 and s.name == stage) for p in profiles[1:]]
        parts = [sum(s.device_s or 0.0 for s in p.spans if s.name.startswith(f"{stage}: ")) for p in profiles[1:]]
        bench.row(
            "plan stage", variant=stage, precision=name, median_s=statistics.median(times), max_s=max(times),
            on_device_s=statistics.median(parts) if bench.device == "cuda" else statistics.median(times), loss="bounded",
        )  # fmt: skip
    wall_s = statistics.median(walls[1:])
    bench.row(
        "plan", variant=name, median_s=wall_s, max_s=max(walls[1:]), first_s=walls[0], loaded_s=loaded_s,
        warmup_s=warmup_s, **peak(bench.device),
        against_paper=ratio(PAPER_S, wall_s) if bench.preset == "dvgwm_5b" else None, uncaptured=uncaptured, loss="bounded",
    )  # fmt: skip
