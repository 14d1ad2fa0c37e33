"""Checks a manifest's numbers against each other: ranges, lengths, and shapes from stage to stage.

Nothing is allocated here and no file is opened. The kinds of stages are in `kinds`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..backends.backend import EngineSpec
from ..backends.onnx import FACTS as ONNX
from ..backends.torch import FACTS as TORCH
from ..types import TensorSpec
from .findings import Finding, agree, impossible, number_in
from .kinds import KINDS, Made
from .manifest import Manifest, StageSpec

LONGEST_NAME = 128
MOST_STAGES = 32
PICTURE_NUMBERS = 8 * 12 * 3
"""Of a coarse picture: rows, columns, colours."""
MOST_COMPILED = 256
COMPILED_SUFFIX = ".plan"
SUFFIXES: Mapping[str, str] = {facts.name: facts.suffix for facts in (ONNX, TORCH)}
"""The end of an engine file's name, by backend."""


def findings(manifest: Manifest) -> Iterator[Finding]:
    """Yield everything wrong with a manifest, in the order of its parts."""
    yield from _input_and_rates(manifest)
    yield from _actions(manifest)
    yield from _learned(manifest)
    if len(manifest.pipeline) > MOST_STAGES:
        yield from number_in("the count of stages", len(manifest.pipeline), 1, MOST_STAGES)
        return
    yield from _engines(manifest)
    yield from _compiled(manifest)
    yield from _pipeline(manifest)


def _input_and_rates(manifest: Manifest) -> Iterator[Finding]:
    camera, rates, text = manifest.input, manifest.rates, manifest.text
    yield from _named("input.camera", camera.camera)
    yield from number_in("input.height_px", camera.height_px, 8, 8192)
    yield from number_in("input.width_px", camera.width_px, 8, 8192)
    yield from number_in("input.fps", camera.fps, 0.1, 1000.0)
    yield from number_in("rates.replan_every", rates.replan_every, 0, 100_000)
    yield from number_in("rates.act_every", rates.act_every, 1, 100_000)
    yield from number_in("rates.history", rates.history, 0, 64)
    yield from number_in("text.max_tokens", text.max_tokens, 1, 4096)
    for name, record in manifest.files.items():
        yield from number_in(f"the size of {name!r}", record.size, 0, 1 << 40)


def _learned(manifest: Manifest) -> Iterator[Finding]:
    learned = manifest.learned
    if learned is None or learned.pictures is None:
        return
    pictures = learned.pictures
    for column, wanted in (("mean", PICTURE_NUMBERS), ("deviation", PICTURE_NUMBERS), ("quantiles", 4)):
        yield from number_in(f"the count of learned.pictures.{column}", len(getattr(pictures, column)), wanted, wanted)
    for value in pictures.mean:
        yield from number_in("learned.pictures.mean", value, 0.0, 1.0)
    for value in pictures.deviation:
        yield from number_in("learned.pictures.deviation", value, 1e-4, 1.0)
    for value in pictures.quantiles:
        yield from number_in("learned.pictures.quantiles", value, 0.0, 1e6)


def _actions(manifest: Manifest) -> Iterator[Finding]:
    action = manifest.action
    count = len(action.names)
    yield from number_in("action.period_s", action.period_s, 0.001, 10.0)
    yield from number_in("the count of action.names", count, 1, 64)
    for name in action.names:
        yield from _named("action.names", name)
    for column in ("units", "lower", "upper"):
        if (got := len(getattr(action, column))) != count:
            yield Finding("ACTION_LENGTH", f"wanted {count} action.{column}, one per name, got {got}")
    for low, high in zip(action.lower, action.upper, strict=False):
        if not -1e6 <= low < high <= 1e6:
            yield Finding(
                "ACTION_RANGE", f"wanted action.lower below action.upper, within 1e6, got {low!r} and {high!r}"
            )


def _engines(manifest: Manifest) -> Iterator[Finding]:
    known: dict[str, EngineSpec] = {}
    for stage in manifest.pipeline:
        for engine in stage.engines.values():
            where = f"stage {stage.name}: engine {engine.file}"
            for name in filter(None, (engine.file, engine.weights)):
                if name not in manifest.files:
                    yield Finding("STAGE_FILE", f"{where}: {name!r} is not among the files")
            suffix = SUFFIXES.get(manifest.backend, "")
            if not engine.file.endswith(suffix):
                yield Finding("BUNDLE_BACKEND", f"{where}: the {manifest.backend} backend runs {suffix} files", False)
            if known.setdefault(engine.file, engine) != engine:
                yield Finding("ENGINE_TWICE", f"{where}: another stage states it otherwise")
            yield from number_in(f"{where}: flop", engine.flop, 0.0, 1e18)
            taken = engine.footprint
            for name in () if taken is None else taken.__slots__:
                yield from number_in(f"{where}: footprint.{name}", getattr(taken, name), 0, 1e15)
            yield from _tensors(where, engine)


def _compiled(manifest: Manifest) -> Iterator[Finding]:
    engines = {engine.file: engine for stage in manifest.pipeline for engine in stage.engines.values()}
    yield from number_in("the count of compiled engines", len(manifest.compiled), 0, MOST_COMPILED)
    for made in manifest.compiled:
        where = f"compiled engine {made.file}"
        yield from _named(f"{where}: library", made.library)
        if made.file not in manifest.files or not made.file.endswith(COMPILED_SUFFIX):
            yield Finding("STAGE_FILE", f"{where}: it is not among the files, or does not end in {COMPILED_SUFFIX}")
        inputs = engines[made.graph].inputs if made.graph in engines else ()
        fits = made.shapes.keys() == {spec.name for spec in inputs} and all(
            agree(replace(spec, shape=made.shapes[spec.name]), spec) for spec in inputs
        )
        if not inputs or not fits:
            yield Finding("ENGINE_SHAPE", f"{where}: its sizes are not those of the inputs of {made.graph!r}")


def _tensors(where: str, engine: EngineSpec) -> Iterator[Finding]:
    for side in (engine.inputs, engine.outputs):
        if len({spec.name for spec in side}) != len(side):
            yield Finding("ENGINE_NAMES", f"{where}: two tensors have one name")
        for spec in side:
            yield from _named(f"{where}: a tensor's name", spec.name)
            if impossible(spec):
                yield Finding("ENGINE_SHAPE", f"{where}: {spec.name} has an impossible shape: {spec}")
    given = {size for spec in engine.inputs for size in spec.shape if isinstance(size, str)}
    for spec in engine.outputs:
        if unknown := {size for size in spec.shape if isinstance(size, str)} - given:
            yield Finding("ENGINE_SHAPE", f"{where}: no input says what the size {min(unknown)!r} of {spec.name} is")
    inputs, outputs = ({spec.name: spec for spec in side} for side in (engine.inputs, engine.outputs))
    for output, name in engine.carry.items():
        if output not in outputs or name not in inputs or not agree(inputs[name], outputs[output]):
            yield Finding("ENGINE_CARRY", f"{where}: it cannot carry {output!r} to {name!r}")


def _pipeline(manifest: Manifest) -> Iterator[Finding]:
    camera = manifest.input
    made: Made = {
        "image": TensorSpec("image", (camera.height_px, camera.width_px, 3), "uint8"),
        "instruction": TensorSpec("instruction", (), "uint8"),  # a text, which no engine takes
        "observations": TensorSpec(
            "observations", (max(manifest.rates.history, 1), camera.height_px, camera.width_px, 3), "uint8"
        ),
    }
    names: set[str] = set()
    for stage in manifest.pipeline:
        yield from _named("a stage's name", stage.name)
        yield from _named(f"stage {stage.name}: output", stage.output)
        if stage.name in names or stage.output in made:
            yield Finding("STAGE_NAMES", f"stage {stage.name}: another one has its name or makes its {stage.output!r}")
        names.add(stage.name)
        yield from _stage(stage, made, manifest)
    yield from _order(manifest)
    yield from _frames_and_actions(manifest, made)


def _stage(stage: StageSpec, made: Made, manifest: Manifest) -> Iterator[Finding]:
    """Check one stage and add its output to ``made``."""
    if stage.kind not in KINDS:
        wanted = ", ".join(KINDS)
        yield Finding("STAGE_KIND", f"stage {stage.name}: wanted a kind of {wanted}; got {stage.kind!r}", False)
        made[stage.output] = None
        return
    kind = KINDS[stage.kind]
    missing = [name for name in (*stage.inputs.values(), *stage.unconditional.values()) if name not in made]
    for name in missing:
        yield Finding("STAGE_WIRING", f"stage {stage.name} needs {name!r}, which no earlier stage makes")
    roles = tuple(sorted(stage.engines)), stage.sampler is not None
    if roles not in kind.parts:
        yield Finding(
            "STAGE_PARTS",
            f"stage {stage.name}: no {stage.kind} has engines {', '.join(roles[0]) or 'none'} "
            f"{'and' if roles[1] else 'without'} a sampler",
            False,
        )
    elif not missing:
        outputs = yield from kind.check(stage, made, manifest)
        for spec in filter(None, outputs.values()):
            if impossible(spec):
                yield Finding("STAGE_SHAPES", f"stage {stage.name}: it would make an impossible {spec}")
        made |= outputs
    made.setdefault(stage.output, None)
    if stage.kind == "encode_text":
        made.setdefault(f"{stage.output}_empty", made[stage.output])
    if stage.kind == "decode":
        made["plan"] = made[stage.output]


def _order(manifest: Manifest) -> Iterator[Finding]:
    kinds = [stage.kind for stage in manifest.pipeline]
    for kind in ("denoise", "decode", "act"):
        if kind not in kinds:
            yield Finding("STAGE_ORDER", f"wanted at least one {kind} stage, got none")
    imagining = [kind for kind in kinds if kind != "act"]
    if imagining and "decode" in kinds and imagining[-1] != "decode":
        yield Finding("STAGE_ORDER", f"wanted decode after all that imagines, got {imagining[-1]}")
    if "act" in kinds and kinds[-1] != "act":
        yield Finding("STAGE_ORDER", f"wanted act last, got {kinds[-1]}")


def _frames_and_actions(manifest: Manifest, made: Made) -> Iterator[Finding]:
    plan, camera = made.get("plan"), manifest.input
    if plan is not None and plan.shape[1:3] != (camera.height_px, camera.width_px):
        yield Finding(
            "INPUT_SIZE",
            f"wanted a camera of the size of imagined frames, {plan.shape[1]} x {plan.shape[2]}, got "
            f"{camera.height_px} x {camera.width_px}",
        )
    last = manifest.pipeline[-1] if manifest.pipeline else None
    actions = made.get(last.output) if last is not None and last.kind == "act" else None
    if actions is None:
        return
    count, width = actions.shape
    if isinstance(count, int) and manifest.rates.act_every > count:
        yield Finding(
            "RATES", f"wanted rates.act_every of at most the {count} actions given, got {manifest.rates.act_every}"
        )
    if width != len(manifest.action.names):
        yield Finding(
            "ACTION_LENGTH", f"wanted {width} action.names, one per number of an action, got {manifest.action.names}"
        )


def _named(place: str, name: str) -> Iterator[Finding]:
    if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        yield Finding("MANIFEST_NAME", f"wanted {place} of 1 to {LONGEST_NAME} visible characters, got {name[:40]!r}")
