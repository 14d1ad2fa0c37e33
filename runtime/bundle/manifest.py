"""The contents of `manifest.json`: the dataclasses are the schema.

Nothing here touches the disk: it is given bytes. Unknown keys, wrong types and other schema versions are refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import msgspec
import numpy as np

from ..backends.backend import EngineSpec
from ..backends.compiling import Building
from ..errors import BundleCorruptError, BundleIncompatibleError
from ..samplers.spec import SamplerSpec
from ..strict import UnknownKeyError, strict
from ..types import FloatArray

SCHEMA = 1
LONGEST_NUMBER = 18
"""Digits of a whole number: what is longer is no size, rate or count."""
Constant = float | str | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One step of the pipeline.

    ``inputs`` maps each of the stage's parameters to the name of an earlier tensor, ``unconditional`` the ones of
    guidance's empty branch; ``output`` names the stage's own tensor. ``engines`` are keyed by role.
    """

    kind: str
    name: str
    engines: Mapping[str, EngineSpec]
    inputs: Mapping[str, str]
    unconditional: Mapping[str, str]
    output: str
    sampler: SamplerSpec | None
    constants: Mapping[str, Constant]

    def number(self, name: str) -> float:
        """Return the constant ``name``; raises `BundleIncompatibleError` if it is no number."""
        value = self.constants.get(name)
        if not isinstance(value, int | float):
            raise BundleIncompatibleError(
                "STAGE_CONSTANT", f"stage {self.name}: wanted a number {name!r}, got {value!r}"
            )
        return float(value)

    def vector(self, name: str) -> FloatArray:
        """Return the constant ``name`` as numbers, float32; raises `BundleIncompatibleError` if it is no vector."""
        value = self.constants.get(name)
        if isinstance(value, str) or value is None:
            raise BundleIncompatibleError(
                "STAGE_CONSTANT", f"stage {self.name}: wanted {name!r} per channel, got {value!r}"
            )
        return np.atleast_1d(np.asarray(value, np.float32))


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The weights' origin; ``trained`` is false for seeded random weights: their quality means nothing."""

    preset: str
    family: str
    weights: str
    trained: bool
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PictureStats:
    """The training pictures as seen from far away (`runtime.familiar.coarse`): mean and deviation of every number.

    ``quantiles`` are distances: .5, .9, .99 and all of the held-out pictures are within them.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Learned:
    """The training data of the networks: instructions and all of their words, cameras, robots, and the pictures' statistics."""

    sentences: tuple[str, ...]
    words: tuple[str, ...]
    cameras: tuple[str, ...]
    robots: tuple[str, ...]
    pictures: PictureStats | None


@dataclass(frozen=True, slots=True)
class InputContract:
    """The camera's frames: RGB uint8 of this size; ``fps`` is the rate of the imagined frames."""

    camera: str
    height_px: int
    width_px: int
    fps: float


@dataclass(frozen=True, slots=True)
class ActionContract:
    """The actions' meaning: the policy's [-1, 1] maps to ``lower``..``upper`` in ``units``, one action per ``period_s``."""

    space: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    period_s: float


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of the pipeline's two calls, in actions: 0 replans never; ``history`` counts observations given."""

    replan_every: int
    act_every: int
    history: int


@dataclass(frozen=True, slots=True)
class TextContract:
    """The way from instructions to tokens, and the hashes of a cached prompt."""

    tokenizer: str
    max_tokens: int
    tokenizer_sha256: str
    encoder_sha256: str


@dataclass(frozen=True, slots=True)
class Parity:
    """Measured distance of one engine, or of the whole plan, from the torch reference, and the tolerance it passed.

    ``tolerance`` and ``control`` (how far another seed is) are in the ``measure``: max_abs, or relative_l2.
    """

    max_abs: float
    relative_l2: float
    cosine: float
    tolerance: float
    control: float
    measure: str = "max_abs"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size and hash of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CompiledEngine:
    """An engine in the bundle's ``file``: ``library`` compiled it ahead from a ``graph``, for these ``shapes`` of its inputs.

    ``facts`` are the library's version, ``building`` has the GPUs.
    """

    library: str
    graph: str
    file: str
    shapes: Mapping[str, tuple[int, ...]]
    facts: Mapping[str, str]
    building: Building


@dataclass(frozen=True, slots=True)
class Manifest:
    """A bundle's account of itself."""

    schema: int
    name: str
    builder: str
    backend: str
    precision: str
    model: ModelCard
    input: InputContract
    action: ActionContract
    rates: Rates
    text: TextContract
    pipeline: tuple[StageSpec, ...]
    fingerprint: Mapping[str, str]
    parity: Mapping[str, Parity]
    files: Mapping[str, FileRecord]
    learned: Learned | None = None
    compiled: tuple[CompiledEngine, ...] = ()

    def stage(self, name: str) -> StageSpec:
        """Return the stage called ``name``; raises `BundleIncompatibleError` if there is none."""
        for stage in self.pipeline:
            if stage.name == name:
                return stage
        names = ", ".join(stage.name for stage in self.pipeline)
        raise BundleIncompatibleError("BUNDLE_STAGE", f"wanted a stage {name!r}, the bundle has {names}")


def parse(data: bytes) -> Manifest:
    """Return the manifest in ``data`` after all `checks` of its numbers.

    Raises `BundleCorruptError`, or `BundleIncompatibleError` for a sound one of another version, with everything wrong.
    """
    try:
        raw = json.loads(data, object_pairs_hook=_unique, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise BundleCorruptError("MANIFEST_JSON", f"manifest.json is not JSON ({error}); rebuild the bundle") from None
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != SCHEMA:
        raise BundleIncompatibleError(
            "MANIFEST_SCHEMA", f"wanted manifest schema {SCHEMA}, got {schema!r}; rebuild with export/build_engines.py"
        )
    wrong = _take_out_samplers(raw)
    try:
        manifest = strict(raw, Manifest)
    except (ValueError, OverflowError, RecursionError) as error:
        code = "MANIFEST_KEY" if isinstance(error, UnknownKeyError) else "MANIFEST_FIELD"
        raise BundleCorruptError(code, f"manifest.json: {error}; rebuild the bundle") from None
    _check(manifest, wrong)
    return manifest


def _take_out_samplers(raw: Any) -> list[str]:
    """Return the faults of samplers, and put sound ones in their place: their settings check themselves.

    So all other faults can be told beside them.
    """
    wrong = []
    stages = raw.get("pipeline")
    for stage in stages if isinstance(stages, list) else ():
        if isinstance(stage, dict) and isinstance(stage.get("sampler"), dict):
            try:
                strict(stage["sampler"], SamplerSpec)
            except UnknownKeyError:
                continue
            except (ValueError, OverflowError) as error:
                wrong.append(f"stage {stage.get('name')}: {error}")
                stage["sampler"] = {"kind": "euler_flow", "steps": 1}
    return wrong


def _check(manifest: Manifest, wrong_samplers: Sequence[str]) -> None:
    from .checks import findings  # it reads the dataclasses of this module
    from .findings import Finding

    if found := [*(Finding("MANIFEST_FIELD", text) for text in wrong_samplers), *findings(manifest)]:
        kind = BundleCorruptError if found[0].corrupt else BundleIncompatibleError
        listed = "; ".join(f"({index}) {finding.text}" for index, finding in enumerate(found, 1))
        told = found[0].text if len(found) == 1 else f"{len(found)} things do not hold: {listed}"
        raise kind(found[0].log_code, f"manifest.json: {told}; rebuild the bundle")


def dump(manifest: Manifest) -> bytes:
    """Return ``manifest`` as JSON text for `parse`, the same bytes for the same manifest."""
    return json.dumps(msgspec.to_builtins(manifest), indent=1, sort_keys=True).encode() + b"\n"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, part in pairs:
        if name in value:
            raise ValueError(f"the key {name!r} is there twice")
        value[name] = part
    return value


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text[:LONGEST_NUMBER]} is no finite number")
    return value
