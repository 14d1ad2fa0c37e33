"""The manifest of a preset: its stages wired together, its contracts, its weights' origin."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from dvgwm.models import wan
from dvgwm.models.denoisers import rescaling
from dvgwm.models.sizes import Preset, Scaling
from dvgwm.runtime import __version__
from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.bundle.manifest import (
    SCHEMA,
    ActionContract,
    Constant,
    InputContract,
    Learned,
    Manifest,
    ModelCard,
    Rates,
    StageSpec,
    TextContract,
)
from dvgwm.runtime.samplers.schedule import signal_and_noise
from dvgwm.runtime.samplers.spec import SamplerSpec


def describe(
    preset: Preset,
    engines: Mapping[str, EngineSpec],
    card: ModelCard,
    backend: str,
    precision: str,
    fingerprint: Mapping[str, str],
    tokenizer: bytes | None = None,
    learned: Learned | None = None,
) -> Manifest:
    """Return the manifest of ``preset`` for one backend; parity and files are filled in when the bundle is written.

    ``tokenizer`` is the bundle's `tokenizer.json`, None if it takes bytes; ``learned`` is the account of its training.
    """
    per_plan = preset.frames - 1
    return Manifest(
        schema=SCHEMA,
        name=preset.name,
        builder=f"dvgwm {__version__}",
        backend=backend,
        precision=precision,
        model=card,
        input=input_contract(preset),
        action=action_contract(preset),
        rates=Rates(preset.execute or per_plan, per_plan, 1),
        text=_text(preset, card, tokenizer),
        pipeline=(*_imagining(preset, engines), act_stage(preset, engines)),
        fingerprint=dict(fingerprint),
        parity={},
        files={},
        learned=learned,
    )


def weights_hash(module: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers with their names."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def without_text_encoder(manifest: Manifest) -> Manifest:
    """Return ``manifest`` for a bundle of stored instructions only."""
    stages = (replace(stage, engines={}) if stage.kind == "encode_text" else stage for stage in manifest.pipeline)
    return replace(manifest, pipeline=tuple(stages))


def input_contract(preset: Preset) -> InputContract:
    """Return the contract of the camera."""
    return InputContract("scene", *preset.high, preset.fps)


def action_contract(preset: Preset) -> ActionContract:
    """Return the contract of the policy's actions."""
    actions = preset.actions
    return ActionContract(actions.space, actions.names, actions.units, actions.lower, actions.upper, 1 / preset.fps)


def _text(preset: Preset, card: ModelCard, tokenizer: bytes | None) -> TextContract:
    text = preset.text
    digest = hashlib.sha256(text.tokenizer.encode() if tokenizer is None else tokenizer).hexdigest()
    return TextContract(text.tokenizer, text.max_tokens, digest, card.hashes["text"])


def _imagining(preset: Preset, engines: Mapping[str, EngineSpec]) -> tuple[StageSpec, ...]:
    """Return the stages from an instruction and a first frame to frames."""
    sampling = preset.sampling
    sampler = SamplerSpec(
        sampling.preview,
        sampling.preview_steps,
        sampling.preview_guidance,
        snr_shift=sampling.preview_snr_shift,
        time_shift=sampling.preview_time_shift,
    )
    text = {"encode": engines["text_encoder"]}
    encode_text = _stage("encode_text", "encode_text", "text", text, {"instruction": "instruction"})
    encoders = {"encode_low": ("image", preset.preview_scaling)} if preset.family != "wan" else wan.encoders(preset)
    encode_low = [_encode(name, f"low_{made}", engines, scaling) for name, (made, scaling) in encoders.items()]
    conditions = {"text": "text"} | {made: f"low_{made}" for made, _ in encoders.values()}
    preview = _stage("denoise", "preview", "low_latents", _denoise(engines, "preview"), conditions, sampler)
    decoders = {name: engines[name] for name in ("decode_first", "decode_next")}
    if preset.refiner is None:
        return (
            encode_text,
            *encode_low,
            preview,
            _stage("decode", "decode", "frames", decoders, {"latents": "low_latents"}),
        )
    conditions = {"state": "high_start", "text": "text", "image": "high_image"}
    if preset.refiner_sees_preview:
        conditions["preview"] = "low_latents"
    sampler = SamplerSpec("euler_flow", sampling.refine_steps)
    return (
        encode_text,
        *encode_low,
        _encode("encode_high", "high_image", engines, preset.refiner_scaling),
        preview,
        _bridge(preset),
        _stage("denoise", "refine", "high_latents", _denoise(engines, "refine"), conditions, sampler),
        _stage("decode", "decode", "frames", decoders, {"latents": "high_latents"}),
    )


def _denoise(engines: Mapping[str, EngineSpec], name: str) -> dict[str, EngineSpec]:
    modulate = {"modulate": engines[f"modulate_{name}"]} if f"modulate_{name}" in engines else {}
    return {"denoise": engines[name]} | modulate


def _encode(name: str, output: str, engines: Mapping[str, EngineSpec], scaling: Scaling) -> StageSpec:
    constants = {"mean": scaling.mean, "std": scaling.std}
    return _stage("encode_image", name, output, {"encode": engines[name]}, {"image": "image"}, None, constants)


def _bridge(preset: Preset) -> StageSpec:
    height, width = preset.grid(preset.high)
    scale, shift = rescaling(preset.preview_scaling, preset.refiner_scaling)
    signal, strength = signal_and_noise(preset.sampling.bridge_step)
    constants: dict[str, Constant] = {
        "frames": float(preset.latent_frames), "height": float(height), "width": float(width),
        "scale": scale, "shift": shift, "signal": signal, "strength": strength,
    }  # fmt: skip
    return _stage("bridge", "bridge", "high_start", {}, {"latents": "low_latents"}, None, constants)


def act_stage(preset: Preset, engines: Mapping[str, EngineSpec]) -> StageSpec:
    """Return the stage from a plan's frames to actions, with the engines ``frame_encoder`` and ``policy``."""
    sampling, policy = preset.sampling, preset.policy
    sampler = SamplerSpec("ddim_epsilon", sampling.policy_steps, train_steps=sampling.policy_train_steps)
    constants: dict[str, Constant] = {
        "frames": float(preset.frames), "stride": float(policy.stride), "offsets": tuple(map(float, policy.offsets)),
        "samples": float(policy.samples), "medoid_above": policy.medoid_above, "blend": policy.blend,
    }  # fmt: skip
    roles = {"encode": engines["frame_encoder"], "denoise": engines["policy"]}
    return _stage("act", "act", "actions", roles, {"plan": "plan"}, sampler, constants)


def _stage(
    kind: str,
    name: str,
    output: str,
    engines: Mapping[str, EngineSpec],
    inputs: Mapping[str, str],
    sampler: SamplerSpec | None = None,
    constants: Mapping[str, Constant] | None = None,
) -> StageSpec:
    unconditional = {"text": "text_empty"} if kind == "denoise" else {}
    return StageSpec(kind, name, dict(engines), dict(inputs), unconditional, output, sampler, dict(constants or {}))
