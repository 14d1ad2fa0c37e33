"""The manifest of a preset: its stages wired together, its contracts, where its weights come from."""

import hashlib
from collections.abc import Mapping

from torch import nn

from dvgwm.models.denoisers import rescaling
from dvgwm.models.networks import Networks
from dvgwm.models.presets import Preset, Scaling
from dvgwm.runtime import __version__
from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.bundle.manifest import (
    SCHEMA,
    ActionContract,
    InputContract,
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
) -> Manifest:
    """Return the manifest of ``preset`` for one backend; parity and files are filled in when the bundle is written."""
    per_plan = preset.frames - 1
    return Manifest(
        schema=SCHEMA,
        name=preset.name,
        builder=f"dvgwm {__version__}",
        backend=backend,
        precision=precision,
        model=card,
        input=InputContract("scene", *preset.high, preset.fps),
        action=action_contract(preset),
        rates=Rates(preset.execute or per_plan, per_plan, 1),
        text=_text(preset, card),
        pipeline=(*_imagining(preset, engines), act_stage(preset, engines)),
        fingerprint=dict(fingerprint),
        parity={},
        files={},
    )


def card_of(preset: Preset, networks: Networks, weights: str, trained: bool) -> ModelCard:
    """Return the model card with a hash of every network's weights."""
    hashes = {name: weights_hash(module) for name, module in networks.parts().items()}
    return ModelCard(preset.name, preset.family, weights, trained, hashes)


def weights_hash(module: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers with their names."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _text(preset: Preset, card: ModelCard) -> TextContract:
    tokenizer = hashlib.sha256(preset.text.tokenizer.encode()).hexdigest()
    return TextContract(preset.text.tokenizer, preset.text.max_tokens, tokenizer, card.hashes["text"])


def action_contract(preset: Preset) -> ActionContract:
    """Return what the policy's numbers mean."""
    actions = preset.actions
    return ActionContract(actions.space, actions.names, actions.units, actions.lower, actions.upper, 1 / preset.fps)


def _imagining(preset: Preset, engines: Mapping[str, EngineSpec]) -> tuple[StageSpec, ...]:
    sampling = preset.sampling
    preview = SamplerSpec(
        "ddim_v", sampling.preview_steps, sampling.preview_guidance, snr_shift=sampling.preview_snr_shift
    )
    stages = [
        _stage(
            "encode_text", "encode_text", "text", {"encode": engines["text_encoder"]}, {"instruction": "instruction"}
        ),
        _encode("encode_low", "low_image", engines, preset.preview_scaling),
        _stage(
            "denoise",
            "preview",
            "low_latents",
            {"denoise": engines["preview"]},
            {"text": "text", "image": "low_image"},
            unconditional={"text": "text_empty"},
            sampler=preview,
        ),
    ]
    decoders = {name: engines[name] for name in ("decode_first", "decode_next")}
    if preset.refiner is None:
        return (*stages, _stage("decode", "decode", "frames", decoders, {"latents": "low_latents"}))
    return (
        *stages[:2],
        _encode("encode_high", "high_image", engines, preset.refiner_scaling),
        stages[2],
        _bridge(preset),
        _refine(preset, engines),
        _stage("decode", "decode", "frames", decoders, {"latents": "high_latents"}),
    )


def _encode(name: str, output: str, engines: Mapping[str, EngineSpec], scaling: Scaling) -> StageSpec:
    constants = {"mean": scaling.mean, "std": scaling.std}
    return _stage("encode_image", name, output, {"encode": engines[name]}, {"image": "image"}, constants=constants)


def _bridge(preset: Preset) -> StageSpec:
    height, width = preset.grid(preset.high)
    scale, shift = rescaling(preset.preview_scaling, preset.refiner_scaling)
    signal, strength = signal_and_noise(preset.sampling.bridge_step)
    constants: dict[str, float | str | tuple[float, ...]] = {
        "frames": float(preset.latent_frames),
        "height": float(height),
        "width": float(width),
        "scale": scale,
        "shift": shift,
        "signal": signal,
        "strength": strength,
    }
    return _stage("bridge", "bridge", "high_start", {}, {"latents": "low_latents"}, constants=constants)


def _refine(preset: Preset, engines: Mapping[str, EngineSpec]) -> StageSpec:
    inputs = {"state": "high_start", "text": "text", "image": "high_image"}
    if preset.refiner_sees_preview:
        inputs["preview"] = "low_latents"
    sampler = SamplerSpec("euler_flow", preset.sampling.refine_steps)
    return _stage(
        "denoise",
        "refine",
        "high_latents",
        {"denoise": engines["refine"]},
        inputs,
        unconditional={"text": "text_empty"},
        sampler=sampler,
    )


def act_stage(preset: Preset, engines: Mapping[str, EngineSpec]) -> StageSpec:
    """Return the stage that turns a plan's frames into actions, from the engines ``frame_encoder`` and ``policy``."""
    sampling, policy = preset.sampling, preset.policy
    return _stage(
        "act",
        "act",
        "actions",
        {"encode": engines["frame_encoder"], "denoise": engines["policy"]},
        {"plan": "plan"},
        sampler=SamplerSpec("ddim_epsilon", sampling.policy_steps, train_steps=sampling.policy_train_steps),
        constants={
            "frames": float(preset.frames),
            "stride": float(policy.stride),
            "offsets": tuple(map(float, policy.offsets)),
            "samples": float(policy.samples),
            "medoid_above": policy.medoid_above,
            "blend": policy.blend,
        },
    )


def _stage(
    kind: str,
    name: str,
    output: str,
    engines: Mapping[str, EngineSpec],
    inputs: Mapping[str, str],
    unconditional: Mapping[str, str] | None = None,
    sampler: SamplerSpec | None = None,
    constants: Mapping[str, float | str | tuple[float, ...]] | None = None,
) -> StageSpec:
    return StageSpec(
        kind, name, dict(engines), dict(inputs), dict(unconditional or {}), output, sampler, dict(constants or {})
    )
