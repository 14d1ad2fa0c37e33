"""What `manifest.json` says: the dataclasses are the schema.

Nothing here touches the disk beyond the bytes that it is given. Unknown keys, wrong types and other schema versions
are refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from ..backends.backend import EngineSpec
from ..errors import BundleCorruptError, BundleIncompatibleError
from ..samplers.spec import SamplerSpec
from ..strict import UnknownKeyError, strict
from ..types import FloatArray

SCHEMA = 1
STAGE_KINDS = ("encode_text", "encode_image", "denoise", "bridge", "decode", "act")
Constant = float | str | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One step of the pipeline.

    ``inputs`` maps each of the stage's parameters to the name of a tensor made earlier, ``unconditional`` those of
    guidance's empty branch; ``output`` names what the stage makes. ``engines`` are keyed by role.
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
        """Return the constant ``name``; raises `BundleIncompatibleError` where it is no number."""
        value = self.constants.get(name)
        if not isinstance(value, int | float):
            raise BundleIncompatibleError(
                "STAGE_CONSTANT", f"stage {self.name}: wanted a number {name!r}, got {value!r}"
            )
        return float(value)

    def vector(self, name: str) -> FloatArray:
        """Return the constant ``name`` as numbers, float32; raises `BundleIncompatibleError` where it is none."""
        value = self.constants.get(name)
        if isinstance(value, str) or value is None:
            raise BundleIncompatibleError(
                "STAGE_CONSTANT", f"stage {self.name}: wanted {name!r} per channel, got {value!r}"
            )
        return np.atleast_1d(np.asarray(value, np.float32))


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Where the weights come from; ``trained`` is false for seeded random weights, whose quality means nothing."""

    preset: str
    family: str
    weights: str
    trained: bool
    hashes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class InputContract:
    """What the camera has to deliver: RGB uint8 of this size; ``fps`` is the rate of the imagined frames."""

    camera: str
    height_px: int
    width_px: int
    fps: float


@dataclass(frozen=True, slots=True)
class ActionContract:
    """What the actions mean: the policy's [-1, 1] maps to ``lower``..``upper`` in ``units``, one action per ``period_s``."""

    space: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    period_s: float


@dataclass(frozen=True, slots=True)
class Rates:
    """How often the pipeline's two calls run, in actions: 0 replans never; ``history`` counts observations given."""

    replan_every: int
    act_every: int
    history: int


@dataclass(frozen=True, slots=True)
class TextContract:
    """How instructions become tokens, and the hashes that a cached prompt must match."""

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
class Manifest:
    """All that a bundle says about itself."""

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

    def stage(self, name: str) -> StageSpec:
        """Return the stage called ``name``; raises `BundleIncompatibleError` where there is none."""
        for stage in self.pipeline:
            if stage.name == name:
                return stage
        names = ", ".join(stage.name for stage in self.pipeline)
        raise BundleIncompatibleError("BUNDLE_STAGE", f"wanted a stage {name!r}, the bundle has {names}")


def parse(data: bytes) -> Manifest:
    """Return the manifest in ``data``; raises `BundleCorruptError` or `BundleIncompatibleError` with the place."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleCorruptError("MANIFEST_JSON", f"manifest.json is not JSON ({error}); rebuild the bundle") from None
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != SCHEMA:
        raise BundleIncompatibleError(
            "MANIFEST_SCHEMA", f"wanted manifest schema {SCHEMA}, got {schema!r}; rebuild with export/build_engines.py"
        )
    try:
        manifest = strict(raw, Manifest)
    except ValueError as error:
        code = "MANIFEST_KEY" if isinstance(error, UnknownKeyError) else "MANIFEST_FIELD"
        raise BundleCorruptError(code, f"manifest.json: {error}; rebuild the bundle") from None
    _check_stages(manifest)
    return manifest


def dump(manifest: Manifest) -> bytes:
    """Return ``manifest`` as JSON text for `parse`, the same bytes for the same manifest."""
    return json.dumps(msgspec.to_builtins(manifest), indent=1, sort_keys=True).encode() + b"\n"


def _check_stages(manifest: Manifest) -> None:
    available = {"image", "instruction", "plan", "observations"}
    for stage in manifest.pipeline:
        where = f"stage {stage.name}"
        if stage.kind not in STAGE_KINDS:
            raise BundleIncompatibleError("STAGE_KIND", f"{where}: wanted a kind of {STAGE_KINDS}, got {stage.kind!r}")
        for tensor in (*stage.inputs.values(), *stage.unconditional.values()):
            if tensor not in available:
                raise BundleCorruptError("STAGE_WIRING", f"{where} needs {tensor!r}, which no earlier stage makes")
        available |= {stage.output, f"{stage.output}_empty"} if stage.kind == "encode_text" else {stage.output}
        for engine in stage.engines.values():
            for name in filter(None, (engine.file, engine.weights)):
                if name not in manifest.files:
                    raise BundleCorruptError("STAGE_FILE", f"{where}: engine {name!r} is not among the files")
