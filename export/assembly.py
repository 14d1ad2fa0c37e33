"""From an order to a verified bundle: export, build, verify, write, benchmark."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

import torch

from dvgwm.models.graph import Graph
from dvgwm.models.networks import Networks
from dvgwm.models.precision import ALWAYS_FLOAT32, Precision, precision
from dvgwm.models.sizes import Preset
from dvgwm.runtime import __version__
from dvgwm.runtime.backends.backend import Backend, EngineSpec
from dvgwm.runtime.backends.compiling import Compiler, CompilingBackend
from dvgwm.runtime.bundle.disk import MANIFEST, Bundle, put_bundle, read_bundle, read_manifest, record_of
from dvgwm.runtime.bundle.manifest import Learned, Manifest, ModelCard, Parity
from dvgwm.runtime.bundle.prompts import PROMPTS_FILE, save_prompts
from dvgwm.runtime.config.plugins import open_backend, open_compiler
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.pipeline import Pipeline

from .describe import describe, input_contract, without_text_encoder
from .eight_bit import quantised
from .footprint import with_footprints
from .graphs import fixed, graphs
from .intake import Intake, intake
from .interface import engine_spec
from .learned import learned_from
from .onnx_graph import check_graph
from .order import Order
from .parity import gate_of
from .products import Products, Report, make_products
from .scenes import HELD_OUT, ExampleScene, recorded
from .tensorrt_operators import unsupported
from .timing import benchmark
from .trt import compiled_ahead, compiled_here
from .verify import Inputs, engine_parity, plan_parity, seeded_pair
from .workshop import Workshop


@dataclass(frozen=True, slots=True)
class Outcome:
    """A build's bundle (None before the verify step), and its median seconds per stage from the benchmark.

    ``parity`` is of the engines asked for alone. After the build step there is the ``manifest`` of the bundle to be, and
    ``unsupported``: each graph's operators outside TensorRT's list. Files were ``made`` now, or ``reused`` from a stopped
    build.
    """

    bundle: Bundle | None
    made: tuple[str, ...]
    reused: tuple[str, ...]
    seconds: dict[str, float]
    parity: Mapping[str, Parity] = field(default_factory=dict)
    manifest: Manifest | None = None
    unsupported: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """The backend to verify engines on, and the ones it compiled here, by graph."""

    backend: Backend
    engines: Mapping[str, Path]


def build_bundle(order: Order, report: Report, tell: Callable[[str], None] = lambda line: None) -> Outcome:
    """Return the outcome of ``order``; raises `ConfigError` if it cannot be built, `ParityError` for a failed gate.

    ``tell`` hears the memory and disk needed before anything is made. Products are kept beside ``out`` until the bundle is
    written: a stopped build goes on from them.
    """
    preset = order.checked()
    backend = open_backend(order.verifies_on, None)
    taken = intake(order, preset)
    learned = _learned(order, preset, taken)
    stored = taken.stored
    reference = compiled = _graphs(order, preset, stored.reference, modulated=order.format != "onnx")
    _check_names(order, reference)
    if order.format != "onnx":
        compiled = _graphs(order, preset, stored.networks, precision(order.precision))
    elif stored.networks is not stored.reference:
        compiled = _graphs(order, preset, stored.networks)
    fingerprint = {} if order.format == "onnx" else backend.fingerprint
    compiler = open_compiler(order.backend, None) if order.facts.ahead else None
    workshop = _workshop(order, preset, taken, repr(learned), fingerprint, compiler)
    share = 1.6 if order.eight_bit else 1.0  # beside the weights in 8 bits lie those that they are made of
    free = order.check_room(max(0, round(share * stored.size_bytes) - workshop.size_bytes))
    tell(f"{stored.size_bytes / 1e9:.1f} GB of weights, {free / 1e9:.0f} GB free")
    if "verify" in order.steps and workshop.is_finished(order.out / MANIFEST):
        return _finished(order, workshop, Products({}, {}, ()), Opened(backend, {}), report)
    products = make_products(compiled, taken, workshop, report, order.eight_bit is not None)
    if order.steps[-1] == "export":
        return Outcome(None, products.made, products.reused, {})
    specs = _specs(compiled, reference)
    card = ModelCard(preset.name, preset.family, taken.told, taken.trained, stored.hashes(products.weights))
    manifest = describe(preset, specs, card, order.format, order.precision, fingerprint, taken.tokenizer, learned)
    scenes = list(recorded(order.calibrate, manifest.input)) if order.calibrate else []
    inputs: Mapping[str, Sequence[Inputs]] = {}
    if order.eight_bit is not None:
        products, calibration = quantised(products, manifest, order.eight_bit, scenes, workshop, report)
        inputs = calibration.inputs
    _check(compiled, products.files, report)
    manifest = with_footprints(manifest, products.files)
    engines: Mapping[str, Path] = {}
    draft = _draft(workshop, manifest, products)
    if isinstance(backend, CompilingBackend):
        engines = compiled_here(draft, backend, order, report)
    elif compiler is not None:
        ahead, more = compiled_ahead(draft, compiler, order.building(compiler), workshop, report, tell)
        manifest, products = replace(manifest, compiled=ahead), products.with_more(more)
    if order.steps[-1] == "build":
        refused = _unsupported(compiled, products)
        return Outcome(None, products.made, products.reused, {}, manifest=manifest, unsupported=refused)
    stored.fill()
    parity = _engine_parities(order, reference, specs, {**products.files, **engines}, backend, report, inputs)
    if order.engines:
        return Outcome(None, products.made, products.reused, {}, parity)
    shown = scenes[-HELD_OUT:]
    opened = Opened(backend, engines)
    _write_verified(order, replace(manifest, parity=parity), reference, products, workshop, opened, report, shown)
    return _finished(order, workshop, products, opened, report)


def _check_names(order: Order, reference: Sequence[Graph]) -> None:
    if unknown := set(order.engines) - {graph.name for graph in reference}:
        names = ", ".join(graph.name for graph in reference)
        raise ConfigError("ENGINES", f"wanted --engines of {names}; got {', '.join(sorted(unknown))}")


def _workshop(
    order: Order,
    preset: Preset,
    taken: Intake,
    learned: str,
    fingerprint: Mapping[str, str],
    compiler: Compiler | None,
) -> Workshop:
    """Return the work directory beside ``out``, which holds the products of the same order or none."""
    versions = {"torch": str(torch.__version__), "dvgwm": __version__, "source": source_hash(), **fingerprint}
    tokenizer = hashlib.sha256(taken.tokenizer or b"").hexdigest()
    given = [repr(preset), taken.stored.facts, tokenizer, learned]
    facts = [*given, versions, order.precision, order.has_fixed_sizes, order.recording]
    if compiler is not None:
        facts.append([compiler.facts, repr(order.building(compiler))])
    return Workshop.open(order.out.with_name(f".{order.out.name}.build"), facts)


def _learned(order: Order, preset: Preset, taken: Intake) -> Learned | None:
    """Return the account of the weights' training: from the data set named in ``order``, else from their own bundle."""
    if order.trained_on is not None:
        return learned_from(order.trained_on, input_contract(preset))
    if not taken.trained or order.weights is None or order.base or not (order.weights / MANIFEST).is_file():
        return None
    return read_manifest(order.weights).learned


def _graphs(
    order: Order, preset: Preset, networks: Networks, precision: Precision | None = None, modulated: bool = False
) -> tuple[Graph, ...]:
    made = graphs(preset, networks, precision, modulated)
    return tuple(fixed(preset, graph) for graph in made) if order.has_fixed_sizes else made


def _draft(workshop: Workshop, manifest: Manifest, products: Products) -> Bundle:
    """Return the bundle to be; its files are still the workshop's."""
    records = {name: record_of(path) for name, path in products.files.items()}
    return Bundle(workshop.path, replace(manifest, files=records))


def _finished(order: Order, workshop: Workshop, products: Products, opened: Opened, report: Report) -> Outcome:
    """Give the workshop's bundle its name, time it if asked for, and return the outcome."""
    workshop.finish(order.out / MANIFEST)
    bundle = read_bundle(order.out, order.format)
    seconds: dict[str, float] = {}
    if "benchmark" in order.steps:
        engines = opened.engines
        if isinstance(opened.backend, CompilingBackend) and not engines:  # an earlier build compiled them
            engines = compiled_here(bundle, opened.backend, order, report)
        seconds = benchmark(bundle, opened.backend, engines, report)
    workshop.clear()
    return Outcome(bundle, products.made, products.reused if products.files else tuple(bundle.manifest.files), seconds)


def _specs(compiled: Sequence[Graph], reference: Sequence[Graph]) -> dict[str, EngineSpec]:
    """Return the interface of every graph; the work is counted on the reference, operator by operator."""
    specs = {}
    for graph, plain in zip(compiled, reference, strict=True):
        spec = engine_spec(plain)
        specs[graph.name] = spec if graph is plain else replace(engine_spec(graph), flop=spec.flop)
    return specs


def _unsupported(compiled: Sequence[Graph], products: Products) -> dict[str, list[str]]:
    onnx = [graph for graph in compiled if graph.suffix == "onnx"]
    return {graph.name: unsupported(products.files[graph.file]) for graph in onnx}


def _check(compiled: Sequence[Graph], files: Mapping[str, Path], report: Report) -> None:
    for index, graph in enumerate(compiled):
        report("build", graph.name, index, len(compiled))
        if graph.suffix == "onnx":
            check_graph(files[graph.file])
    report("build", "", len(compiled), len(compiled))


def _engine_parities(
    order: Order,
    reference: Sequence[Graph],
    specs: Mapping[str, EngineSpec],
    files: Mapping[str, Path],
    backend: Backend,
    report: Report,
    inputs: Mapping[str, Sequence[Inputs]],
) -> dict[str, Parity]:
    """Return the parity of every engine with torch, or of the ones in the order; raises `ParityError` at a failed gate."""
    limits, exact = gate_of(order.precision), gate_of("float32")
    asked = [graph for graph in reference if not order.engines or graph.name in order.engines]
    by_name = {graph.name: graph for graph in reference}
    total = len(asked) + (not order.engines)
    parity: dict[str, Parity] = {}
    for index, graph in enumerate(asked):
        report("verify", graph.name, index, total)
        spec = specs[graph.name]
        gate = exact if graph.name in ALWAYS_FLOAT32 else limits
        shown = inputs.get(graph.name) or seeded_pair(graph, by_name.get(f"modulate_{graph.name}"))
        parity |= engine_parity(graph, backend, files[spec.file], spec, gate, shown)
    report("verify", "" if order.engines else "plan and actions", len(asked), total)
    return parity


def _write_verified(
    order: Order,
    manifest: Manifest,
    reference: tuple[Graph, ...],
    products: Products,
    workshop: Workshop,
    opened: Opened,
    report: Report,
    scenes: Sequence[ExampleScene],
) -> None:
    """Write the bundle once a whole plan has passed its gate; its engines have passed theirs."""
    draft = _draft(workshop, manifest, products)
    limits = gate_of(order.precision)
    parity = {**manifest.parity, **plan_parity(draft, opened.backend, reference, limits, scenes, opened.engines)}
    report("verify", "", len(reference) + 1, len(reference) + 1)
    sources = dict(products.files)
    if order.instructions:
        with Pipeline(draft, opened.backend, compiled=opened.engines) as pipeline:
            prompts = {text: pipeline.prompts.embed(text) for text in ("", *order.instructions)}
        sources[PROMPTS_FILE] = workshop.path / PROMPTS_FILE
        save_prompts(sources[PROMPTS_FILE], manifest.text, prompts)
    if not order.text_encoder:
        manifest = without_text_encoder(manifest)
        left = {"text_encoder.onnx", "text_encoder.pt2", "text_encoder.safetensors"}
        left |= {path.name for path in products.weights.get("text", ())}
        sources = {name: path for name, path in sources.items() if name not in left}
    put_bundle(order.out, replace(manifest, parity=parity), sources, link=True)


def source_hash() -> str:
    """Return the sha256 of the code of graphs: no product outlives a change of it."""
    digest = hashlib.sha256()
    for package in ("dvgwm.models", "dvgwm.export", "dvgwm.kernels"):
        for file in sorted(resources.files(package).iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".py"):
                digest.update(file.read_bytes())
    return digest.hexdigest()
