"""The kinds of stages: engines, constants, and shapes of inputs and outputs."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from ..types import TensorSpec
from .findings import (
    Finding,
    agree,
    fits,
    fixed,
    inputs_are,
    interface,
    misshapen,
    number,
    one,
    sampler_of,
    vector,
    velocity_of,
    whole,
)
from .manifest import Manifest, StageSpec

Made: TypeAlias = dict[str, TensorSpec | None]
"""Tensors of earlier stages by name; None if the shape is not known from the manifest."""
Check: TypeAlias = Generator[Finding, None, Made]


class StageKind(NamedTuple):
    """A kind of stage: its engines' roles with whether there is a sampler, one pair per form, and its check."""

    parts: tuple[tuple[tuple[str, ...], bool], ...]
    check: Callable[[StageSpec, Made, Manifest], Check]


def encode_text(stage: StageSpec, made: Made, manifest: Manifest) -> Check:
    """Tokens 1 L to text 1 L D; without an engine, stored embeddings of a shape unknown to the manifest."""
    yield from inputs_are(stage, ["instruction"])
    if stage.inputs.get("instruction") != "instruction":
        yield Finding("STAGE_WIRING", f"stage {stage.name}: wanted the instruction, got {dict(stage.inputs)}")
    if not stage.engines:
        return {}
    tokens, text = yield from interface(stage, "encode", {"tokens": 2}, {"text": 3})
    if tokens is not None and tokens[0].shape != (1, manifest.text.max_tokens):
        yield misshapen(stage, tokens[0], f"1 x text.max_tokens, {manifest.text.max_tokens}")
    if manifest.text.tokenizer not in ("bytes", "tokenizer.json"):
        yield Finding("TOKENIZER_KIND", f"wanted bytes or tokenizer.json, got {manifest.text.tokenizer!r}", False)
    if manifest.text.tokenizer == "tokenizer.json" and "tokenizer.json" not in manifest.files:
        yield Finding("STAGE_FILE", f"stage {stage.name}: 'tokenizer.json' is not among the files")
    if text is None:
        return {}
    if text[0].shape[0] != 1 or not fixed(text[0]):
        yield misshapen(stage, text[0], "1, L, D")
    return {stage.output: TensorSpec("text", text[0].shape, "float32")}


def encode_image(stage: StageSpec, made: Made, manifest: Manifest) -> Check:
    """A picture 1 H W 3 to latents 1 1 C h w, scaled per channel."""
    yield from inputs_are(stage, ["image"])
    source = made.get(stage.inputs.get("image", ""))
    if source is None or source.dtype != "uint8" or source.shape[2:] != (3,):
        yield Finding(
            "STAGE_SHAPES", f"stage {stage.name}: wanted an image, uint8[H, W, 3]; what is made for it is {source}"
        )
    image, latents = yield from interface(stage, "encode", {"image": 4}, {"latents": 5})
    if image is None or latents is None:
        return {}
    if image[0].dtype != "uint8" or image[0].shape[::3] != (1, 3) or not fixed(image[0]):
        yield misshapen(stage, image[0], "uint8[1, H, W, 3]")
    if latents[0].shape[:2] != (1, 1) or not fixed(latents[0]):
        yield misshapen(stage, latents[0], "1, 1, C, h, w")
    yield from vector(stage, "mean", -1e6, 1e6, latents[0].shape[2])
    yield from vector(stage, "std", 1e-6, 1e6, latents[0].shape[2])
    return {stage.output: TensorSpec("latents", latents[0].shape, "float32")} if fixed(latents[0]) else {}


def denoise(stage: StageSpec, made: Made, manifest: Manifest) -> Check:
    """Noise, or latents made earlier, to latents 1 T C H W, under conditions from earlier stages.

    The output of an engine ``modulate`` for a time, 1 M, is one of them.
    """
    conditions = [name for name in stage.inputs if name != "state"]
    names = {"state": 5, "time": 1} | dict.fromkeys(conditions, 0)
    modulation: list[TensorSpec] | None = None
    if "modulate" in stage.engines:
        names["modulation"] = 2
        _, modulation = yield from interface(stage, "modulate", {"time": 1}, {"modulation": 2})
    inputs, outputs = yield from interface(stage, "denoise", names, {"velocity": 5})
    yield from sampler_of(stage)
    if inputs is None or outputs is None:
        return {}
    by_name = {spec.name: spec for spec in inputs}
    if modulation is not None:
        yield from fits(stage, by_name["modulation"], modulation[0])
    state = by_name["state"]
    if state.dtype != "float32" or state.shape[0] != 1 or not fixed(state):
        yield misshapen(stage, state, "float32[1, T, C, H, W]")
    branches = 2 if stage.sampler is not None and stage.sampler.guidance != 1.0 else 1
    yield from velocity_of(stage, state, by_name["time"], outputs[0], branches)
    for name, source in stage.inputs.items():
        yield from fits(stage, one(by_name[name]) if name in stage.unconditional else by_name[name], made[source])
    for name, source in stage.unconditional.items():
        if name in by_name:
            yield from fits(stage, one(by_name[name]), made[source])
            if by_name[name].shape[0] != branches and fixed(by_name[name]):
                yield misshapen(stage, by_name[name], f"of open size first or {branches}, for guidance")
    return {stage.output: TensorSpec("latents", state.shape, "float32")} if fixed(state) else {}


def bridge(stage: StageSpec, made: Made, manifest: Manifest) -> Check:
    """Latents 1 t C h w to latents 1 T C H W."""
    yield from inputs_are(stage, ["latents"])
    latents = made.get(stage.inputs.get("latents", ""))
    if latents is not None and len(latents.shape) != 5:
        yield misshapen(stage, latents, "1, T, C, h, w")
    if latents is None or len(latents.shape) != 5:
        return {}
    sizes = {}
    for name in ("frames", "height", "width"):
        sizes[name] = yield from whole(stage, name, 1, 4096)
    channels = latents.shape[2]
    yield from vector(stage, "scale", -1e6, 1e6, channels)
    yield from vector(stage, "shift", -1e6, 1e6, channels)
    for name in ("signal", "strength"):
        yield from number(stage, name, 0.0, 1.0)
    return {
        stage.output: TensorSpec("latents", (1, sizes["frames"], channels, sizes["height"], sizes["width"]), "float32")
    }


def decode(stage: StageSpec, made: Made, manifest: Manifest) -> Check:
    """Latents 1 T C h w to frames T' H W 3: a first chunk, then following ones with carried tensors."""
    yield from inputs_are(stage, ["latents"])
    carry = stage.engines["decode_next"].carry
    mean = {spec.name: 1 for spec in stage.engines["decode_first"].outputs if spec.name == "frames_mean"}
    outputs = {"frames": 5} | dict.fromkeys(carry, 0) | mean
    first_in, first_out = yield from interface(stage, "decode_first", {"latents": 5}, outputs)
    next_in, next_out = yield from interface(
        stage, "decode_next", {"latents": 5} | dict.fromkeys(carry.values(), 0), outputs
    )
    if first_in is None or first_out is None or next_in is None or next_out is None:
        return {}
    left, taken = {spec.name: spec for spec in first_out}, {spec.name: spec for spec in next_in}
    for output, name in carry.items():
        yield from fits(stage, taken[name], left[output])
    begun, more, head, chunk = first_out[0], next_out[0], first_in[0], next_in[0]
    for spec in (begun, more):
        if spec.dtype != "uint8" or spec.shape[::4] != (1, 3) or spec.shape[2:] != begun.shape[2:] or not fixed(spec):
            yield misshapen(stage, spec, "uint8[1, T, H, W, 3]")
            return {}
    latents = made.get(stage.inputs.get("latents", ""))
    if latents is None:
        return {}
    for spec in (head, chunk):
        if not fixed(spec) or not agree(replace(spec, shape=(1, "T", *spec.shape[2:])), latents) or spec.shape[0] != 1:
            yield misshapen(stage, spec, f"a chunk of {latents}")
            return {}
    rest, step = int(latents.shape[1]) - int(head.shape[1]), int(chunk.shape[1])
    if rest < 0 or rest % step:
        yield Finding(
            "STAGE_CHUNKS",
            f"stage {stage.name}: {latents.shape[1]} latent frames are not {head.shape[1]} and then {step}s",
        )
        return {}
    count = int(begun.shape[1]) + rest // step * int(more.shape[1])
    return {stage.output: TensorSpec("frames", (count, *begun.shape[2:]), "uint8")}


def act(stage: StageSpec, made: Made, manifest: Manifest) -> Check:
    """A plan's frames to actions N D, by diffusion policy or by one forward pass."""
    if "act" in stage.engines:
        return (yield from _act_directly(stage, made))
    yield from inputs_are(stage, ["plan"])
    yield from sampler_of(stage)
    frames, features = yield from interface(stage, "encode", {"frames": 4}, {"features": 2})
    names = {"state": 3, "time": 1, "features": 2}
    inputs, outputs = yield from interface(stage, "denoise", names, {"velocity": 3})
    count, horizon, offsets, shows, drawn = yield from _chunks(stage)
    plan = made.get(stage.inputs.get("plan", ""))
    if frames is not None and plan is not None:
        yield from fits(stage, replace(frames[0], shape=("shown", *frames[0].shape[1:])), plan)
        if plan.shape[0] != count:
            yield Finding(
                "STAGE_FRAMES", f"stage {stage.name}: wanted frames of {plan.shape[0]}, as decoded, got {count}"
            )
    if inputs is None or outputs is None or features is None:
        return {}
    state, time, shown = inputs
    for spec, many in (
        (state, drawn),
        (shown, drawn),
        (frames[0] if frames else features[0], shows),
        (features[0], shows),
    ):
        if isinstance(spec.shape[0], int) and spec.shape[0] != many:
            yield misshapen(stage, spec, f"of open size first or {many}: as many as are drawn or shown")
    if not fixed(state, 1) or state.shape[1] != horizon or state.dtype != "float32":
        yield misshapen(stage, state, f"float32[chunks, {horizon}, D], as blend is long")
    wide = features[0].shape[1]
    if not isinstance(wide, int) or shown.shape[1] != wide * offsets or shown.dtype != features[0].dtype:
        yield misshapen(stage, shown, f"{offsets} times {features[0]}")
    yield from velocity_of(stage, state, time, outputs[0], drawn)
    return {stage.output: TensorSpec("actions", (count - 1, state.shape[2]), "float32")}


def _chunks(stage: StageSpec) -> Generator[Finding, None, tuple[int, int, int, int, int]]:
    """Return how many frames a plan has, a chunk's horizon, how many frames it sees (`chunks.chunking`).

    Then how many frames are shown to all of them, and how many chunks are drawn.
    """
    count = yield from whole(stage, "frames", 2, 4096)
    stride = yield from whole(stage, "stride", 1, count)
    samples = yield from whole(stage, "samples", 1, 64)
    yield from number(stage, "medoid_above", 0.0, 1e6)
    offsets = yield from vector(stage, "offsets", 0, count - 1, None)
    blend = yield from vector(stage, "blend", 1e-3, 1e3, None)
    if any(offset != int(offset) for offset in offsets) or list(offsets) != sorted(set(offsets)):
        yield Finding("STAGE_CONSTANT", f"stage {stage.name}: wanted offsets as whole numbers that rise, got {offsets}")
    # As `chunks.chunking`: the last chunk's actions have to reach the plan's end, and no chunk may begin after another's.
    starts = range(0, count - int(max(offsets, default=0)), stride)
    if not starts or starts[-1] + len(blend) < count - 1 or stride > len(blend):
        yield Finding(
            "STAGE_CHUNKS", f"stage {stage.name}: chunks of {len(blend)} every {stride} leave some of {count - 1} out"
        )
    shown = {start + int(offset) for start in starts for offset in offsets}
    return count, len(blend), len(offsets), len(shown), len(starts) * samples


def _act_directly(stage: StageSpec, made: Made) -> Check:
    inputs, outputs = yield from interface(stage, "act", dict.fromkeys(stage.inputs, 0), {"actions": 3})
    if inputs is None or outputs is None:
        return {}
    for spec in inputs:
        if (source := made[stage.inputs[spec.name]]) is not None:
            # Frames come without the batch axis that the engine wants.
            batched = len(source.shape) + 1 == len(spec.shape)
            shape = (1, *source.shape) if batched else source.shape
            yield from fits(stage, spec, TensorSpec(source.name, shape, source.dtype))
    if outputs[0].shape[0] != 1 or not fixed(outputs[0]):
        yield misshapen(stage, outputs[0], "1, N, D")
        return {}
    return {stage.output: TensorSpec("actions", outputs[0].shape[1:], "float32")}


KINDS: Mapping[str, StageKind] = {
    "encode_text": StageKind((((), False), (("encode",), False)), encode_text),
    "encode_image": StageKind(((("encode",), False),), encode_image),
    "denoise": StageKind(((("denoise",), True), (("denoise", "modulate"), True)), denoise),
    "bridge": StageKind((((), False),), bridge),
    "decode": StageKind(((("decode_first", "decode_next"), False),), decode),
    "act": StageKind(((("denoise", "encode"), True), (("act",), False)), act),
}
"""Every kind of stage for a manifest; `stages.WORK` does their work."""
