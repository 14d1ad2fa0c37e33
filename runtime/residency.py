"""The plan of memory: engines kept, engines loaded for their stage alone, and each stage's peak."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod

from .backends.backend import EngineSpec, Footprint
from .backends.facts import MemoryUse
from .bundle.manifest import Manifest, StageSpec
from .errors import ConfigError, EngineMemoryError

GB = 1e9
SIZES_GB = (8, 12, 16, 24, 32, 48, 80)
"""What GPUs and robot PCs have."""


@dataclass(frozen=True, slots=True)
class StageNeed:
    """A stage's memory at its peak, and the engines loaded for it alone."""

    stage: str
    peak_bytes: float
    loaded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Residency:
    """The engines ``evicted`` but for their own stage, and the peak of every stage; all others stay in memory.

    The weights of ``streamed`` engines stay in the host's memory.
    """

    evicted: tuple[str, ...]
    stages: tuple[StageNeed, ...]
    streamed: tuple[str, ...] = ()

    @property
    def peak(self) -> StageNeed:
        """The stage with the largest peak."""
        return max(self.stages, key=lambda need: need.peak_bytes)


def plan_residency(manifest: Manifest, memory_bytes: float, library: MemoryUse) -> Residency:
    """Return the residency with the most engines in memory and no stage above ``memory_bytes``.

    The text encoder goes first, as a known instruction does not need it; then, again and again, the largest engine not used by
    the stage at the peak. If a stage does not fit alone and the library can, its own weights are streamed. Raises
    `EngineMemoryError` with the smallest change to make it fit.
    """
    found = _first_within(manifest, memory_bytes, library)
    if found.peak.peak_bytes > memory_bytes:
        peak = found.peak
        raise EngineMemoryError(
            "MEMORY_PLAN",
            f"{manifest.name} wants {told(peak.peak_bytes)} in stage {peak.stage}, with all other engines out of memory; "
            f"{told(memory_bytes)} were given: {_smallest_change(manifest, memory_bytes, library, peak)}",
        )
    return found


def told(nbytes: float) -> str:
    """Return a size in words, GB or MB."""
    return f"{nbytes / GB:.1f} GB" if nbytes >= GB else f"{nbytes / 1e6:.0f} MB"


CHANGES: tuple[tuple[str, tuple[str, ...], float, float], ...] = (
    ("--precision float16", ("float32",), 0.5, 0.5),
    ("--precision int8_weights", ("float32",), 0.291, 0.5),
    ("--precision int8_weights", ("float16", "bfloat16"), 0.582, 1.0),
)
"""Rebuilding for less: the option, what the bundle is in, what becomes of weights (counted on `dvgwm_5b`) and of the rest."""


def _smallest_change(manifest: Manifest, memory_bytes: float, library: MemoryUse, peak: StageNeed) -> str:
    """Return the first change to make the bundle fit, or the memory to give."""
    for option, precisions, weights, working in CHANGES:
        if manifest.precision in precisions:
            changed = replace(manifest, pipeline=tuple(_shrunk(stage, weights, working) for stage in manifest.pipeline))
            less = _first_within(changed, memory_bytes, library).peak
            if less.peak_bytes <= memory_bytes:
                return f"rebuilt with {option} it would take about {told(less.peak_bytes)}"
    sizes = (size for size in SIZES_GB if size * GB >= peak.peak_bytes > GB)
    enough = next((f" ({size} GB are enough)" for size in sizes), "")
    return f"no precision makes it small enough, take a smaller preset or {told(peak.peak_bytes)}{enough}"


def _shrunk(stage: StageSpec, weights: float, working: float) -> StageSpec:
    """Return ``stage`` with engines of so much less; the policy's never change."""

    def less(spec: EngineSpec) -> EngineSpec:
        taken = _of(spec)
        smaller = Footprint(
            round(taken.weights_bytes * weights),
            0,
            round(taken.working_bytes * working),
            round(taken.unfused_bytes * working),
        )
        return replace(spec, footprint=smaller)

    engines = stage.engines.items()
    return stage if stage.kind == "act" else replace(stage, engines={role: less(spec) for role, spec in engines})


def _first_within(manifest: Manifest, memory_bytes: float, library: MemoryUse) -> Residency:
    """Return the first residency within ``memory_bytes``, or the smallest if none is."""
    everything = tuple(_engines(manifest.pipeline))
    alone = _with(manifest, everything, library)
    while alone.peak.peak_bytes > memory_bytes and (large := _streamable(manifest, alone, library)):
        alone = _with(manifest, everything, library, (*alone.streamed, large))
    residency = _with(manifest, (), library, alone.streamed)
    while residency.peak.peak_bytes > memory_bytes and (idle := _idle(manifest, residency, library)):
        residency = _with(manifest, (*residency.evicted, idle), library, residency.streamed)
    return residency


def _idle(manifest: Manifest, residency: Residency, library: MemoryUse) -> str:
    """Return the next engine to evict; empty if the stage at the peak uses all others."""
    texts = (stage for stage in manifest.pipeline if stage.kind == "encode_text")
    used = {engine.file for engine in manifest.stage(residency.peak.stage).engines.values()}
    left = {file: spec for file, spec in _engines(manifest.pipeline).items() if file not in {*residency.evicted, *used}}
    first = [engine.file for stage in texts for engine in stage.engines.values() if engine.file in left]
    return next(
        iter(first), max(left, key=lambda file: _held(left[file], library, file in residency.streamed), default="")
    )


def _streamable(manifest: Manifest, residency: Residency, library: MemoryUse) -> str:
    """Return the next engine to stream, the largest of the stage at the peak; empty if there is none."""
    used = {engine.file: engine for engine in manifest.stage(residency.peak.stage).engines.values()}
    left = {file: spec for file, spec in used.items() if library.streamed and file not in residency.streamed}
    return max(left, key=lambda file: _of(left[file]).weights_bytes, default="")


def _with(
    manifest: Manifest, evicted: tuple[str, ...], library: MemoryUse, streamed: tuple[str, ...] = ()
) -> Residency:
    everything = _engines(manifest.pipeline)
    states = [part for spec in everything.values() for part in spec.inputs if part.name == "state"]
    largest = max((4 * prod(size for size in part.shape if isinstance(size, int)) for part in states), default=0)
    needs = []
    for stage in manifest.pipeline:
        used = {engine.file for engine in stage.engines.values()}
        here = {file: spec for file, spec in everything.items() if file in used or file not in evicted}
        peak = library.base_bytes + sum(_held(spec, library, file in streamed) for file, spec in here.items())
        if stage.kind in ("denoise", "bridge"):
            peak += library.latents * largest
        if not library.copies:
            peak += max((_working(everything[file], library) for file in used), default=0)
        loaded = tuple(file for file in everything if file in used and file in evicted)
        needs.append(StageNeed(stage.name, peak, loaded))
    return Residency(evicted, tuple(needs), streamed)


def _engines(stages: Iterable[StageSpec]) -> dict[str, EngineSpec]:
    return {engine.file: engine for stage in stages for engine in stage.engines.values()}


def _held(spec: EngineSpec, library: MemoryUse, streamed: bool = False) -> float:
    """Return the memory of a loaded engine, also while it is idle."""
    taken = _of(spec)
    cast = taken.cast_bytes if library.casts else 0
    weights = taken.weights_bytes * (library.streamed if streamed else 1.0)
    return weights + cast + library.copies * _working(spec, library) + library.session_bytes


def _working(spec: EngineSpec, library: MemoryUse) -> int:
    taken = _of(spec)
    return taken.working_bytes if library.fused else taken.unfused_bytes


def _of(spec: EngineSpec) -> Footprint:
    if spec.footprint is None:
        raise ConfigError(
            "MEMORY_UNKNOWN",
            f"the manifest does not say how much memory {spec.file} takes; it does of ONNX engines that this version exports: "
            "rebuild the bundle",
        )
    return spec.footprint
