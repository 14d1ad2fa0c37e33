"""Lists the graphs of a preset: a torch module, example inputs and an interface for every engine file."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn

from dvgwm.models import wan
from dvgwm.models.codec import LinearCodec, fit
from dvgwm.models.denoisers import DenoiseEngine, ModulateEngine, denoise_engine
from dvgwm.models.engines import (
    DecodeEngine,
    EncodeFramesEngine,
    EncodeImageEngine,
    EncodeTextEngine,
    PolicyEngine,
    streaming,
)
from dvgwm.models.fused import FusedTransformer, Modulations
from dvgwm.models.graph import ATTENTION_OPSET, BRANCHES, CHUNKS_DRAWN, FRAMES, HALF_OPSET, Graph
from dvgwm.models.hollow import beside
from dvgwm.models.networks import Networks, moving_shapes
from dvgwm.models.precision import ALWAYS_FLOAT32, Precision
from dvgwm.models.sizes import Preset
from dvgwm.runtime.chunks import Chunking

from .onnx_attention import OperatorTransformer


def graphs(
    preset: Preset, networks: Networks, precision: Precision | None = None, modulated: bool = False
) -> tuple[Graph, ...]:
    """Return the graphs of ``preset`` in the order of the pipeline: for ONNX, or as the compiled packages of a ``precision``.

    A package's denoiser has a graph beside it for its modulations, made once for all steps. With ``modulated``
    these are among the others, too: the reference of packages. ``networks`` are made ready for it: attention in operators
    (ONNX), and fitted bases for a linear codec without any. The rest is done to copies, so ``networks`` stay the reference;
    the policy's are in float32 always.
    """
    ready_codec(preset, networks)
    if precision is not None:
        networks = replace(
            networks,
            # The plain `to`: diffusers' own talks about modules to be kept in float32.
            low_codec=nn.Module.to(deepcopy(networks.low_codec), precision.dtype),
            codec=nn.Module.to(deepcopy(networks.codec), precision.dtype),
            text=nn.Module.to(deepcopy(networks.text), precision.dtype),
            frame_encoder=deepcopy(networks.frame_encoder),
            policy=deepcopy(networks.policy),
        )
    dtype = next(iter(networks.codec.state_dict().values())).dtype
    if preset.family == "wan":
        ordered = [*wan.graphs(preset, networks)]
    else:
        ordered = [
            _encode_text(preset, networks),
            *_encode_images(preset, networks, dtype),
            *_denoisers(_preview(preset, networks, precision), networks.preview, precision, modulated),
        ]
    if preset.refiner is not None:
        assert networks.refiner is not None
        ordered += _denoisers(_refine(preset, networks, precision), networks.refiner, precision, modulated)
    decoder = streaming(networks.codec, fused=precision is not None)
    ordered += [*_decoders(preset, decoder, True, dtype), *acting(preset, networks)]
    if precision is not None:
        return tuple(replace(part, suffix="pt2") for part in ordered)
    if dtype != torch.float32:
        ordered = [
            part if part.name in ALWAYS_FLOAT32 else replace(part, opset=max(part.opset, HALF_OPSET))
            for part in ordered
        ]
    return tuple(ordered)


def fixed(preset: Preset, graph: Graph) -> Graph:
    """Return ``graph`` with its open size fixed to the one in a plan of ``preset``."""
    if not graph.dynamic:
        return graph
    policy, sampling = preset.policy, preset.sampling
    chunks = Chunking(preset.frames, policy.stride, policy.offsets)
    counts = {
        "preview": 2 if sampling.preview_guidance != 1.0 else 1,
        "refine": 1,
        "frame_encoder": len(chunks.shown),
        "policy": len(chunks.starts) * policy.samples,
    }
    count = counts[graph.name]
    inputs = {
        name: example[:1].repeat(count, *[1] * (example.ndim - 1)) if name in graph.dynamic else example
        for name, example in graph.inputs.items()
    }
    return replace(graph, inputs=inputs, dynamic={}, units=count)


def ready_codec(preset: Preset, networks: Networks) -> None:
    """Fit empty linear codecs on clips of moving shapes, in place."""
    for codec in (networks.low_codec, networks.codec):
        if isinstance(codec, LinearCodec) and not codec.get_buffer("first_basis").any():
            fitted = fit([moving_shapes(0, 40, 17, preset.low)], codec.patch, codec.channels)
            codec.load_state_dict(fitted.state_dict())


def acting(preset: Preset, networks: Networks) -> tuple[Graph, Graph]:
    """Return the graphs of the frame encoder and of the policy."""
    return _frames(preset, networks), _policy(preset, networks)


def decoders(preset: Preset, networks: Networks, quantise: bool) -> tuple[Graph, Graph]:
    """Return the two decoder graphs; without ``quantise`` their frames are float32 in [0, 1]."""
    return _decoders(preset, streaming(networks.codec), quantise, torch.float32)


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def _encode_text(preset: Preset, networks: Networks) -> Graph:
    tokens = torch.zeros(1, preset.text.max_tokens, dtype=torch.int64)
    tokens[0, :6] = torch.arange(3, 9)
    return Graph("text_encoder", EncodeTextEngine(networks.text), {"tokens": tokens}, ("text",))


def _encode_images(preset: Preset, networks: Networks, dtype: torch.dtype) -> list[Graph]:
    sizes = {"encode_low": (networks.low_codec, preset.low)}
    if preset.refiner is not None:
        sizes["encode_high"] = networks.codec, preset.high
    return [
        Graph(name, EncodeImageEngine(codec, dtype), {"image": _images(1, *size, 3)}, ("latents",))
        for name, (codec, size) in sizes.items()
    ]


def _denoise_inputs(preset: Preset, size: tuple[int, int], branches: int) -> dict[str, Tensor]:
    channels, grid = preset.codec.channels, preset.grid(size)
    return {
        "state": _randn(1, preset.latent_frames, channels, *grid),
        "time": torch.tensor([0.5]),
        "text": _randn(branches, preset.text.max_tokens, preset.text.width),
        "image": _randn(1, 1, channels, *grid),
    }


def _denoiser(
    preset: Preset,
    networks: Networks,
    transformer: CogVideoXTransformer3DModel,
    precision: Precision | None,
    flow: bool,
) -> DenoiseEngine:
    network = OperatorTransformer(transformer) if precision is None else FusedTransformer(transformer, precision, True)
    return denoise_engine(network, preset, flow, networks)


def _denoisers(
    graph: Graph, transformer: CogVideoXTransformer3DModel, precision: Precision | None, modulated: bool
) -> list[Graph]:
    """Return the graph of a denoiser, and of its modulations if it is given them."""
    if precision is None and not modulated:
        return [graph]
    dtype = torch.float32 if precision is None else precision.dtype
    assert isinstance(graph.module, DenoiseEngine)
    engine = ModulateEngine(Modulations(transformer, dtype), graph.module.flow)
    time = graph.inputs["time"]
    modulate = Graph(f"modulate_{graph.name}", engine, {"time": time}, ("modulation",))
    if precision is None:  # the reference computes them in every run
        return [modulate, graph]
    with torch.no_grad():
        example = engine(*beside(engine, {"time": time}).values())
    return [modulate, replace(graph, inputs={**graph.inputs, "modulation": example})]


def _preview(preset: Preset, networks: Networks, precision: Precision | None) -> Graph:
    engine = _denoiser(preset, networks, networks.preview, precision, flow=False)
    inputs = _denoise_inputs(preset, preset.low, 2) | {"time": torch.tensor([499.0])}
    return Graph("preview", engine, inputs, ("velocity",), {"text": BRANCHES}, opset=ATTENTION_OPSET)


def _refine(preset: Preset, networks: Networks, precision: Precision | None) -> Graph:
    assert networks.refiner is not None
    engine = _denoiser(preset, networks, networks.refiner, precision, flow=True)
    inputs = _denoise_inputs(preset, preset.high, 2)
    if preset.refiner_sees_preview:
        inputs["preview"] = _randn(1, preset.latent_frames, preset.codec.channels, *preset.grid(preset.low))
    return Graph("refine", engine, inputs, ("velocity",), {"text": BRANCHES}, opset=ATTENTION_OPSET)


def _decoders(preset: Preset, codec: Any, quantise: bool, dtype: torch.dtype) -> tuple[Graph, Graph]:
    grid, channels = preset.grid(preset.high), preset.codec.channels
    names = codec.cache_names(channels, grid)
    first, following = (
        DecodeEngine(codec, preset.refiner_scaling, names, is_first, quantise, dtype) for is_first in (True, False)
    )
    head = _randn(1, codec.chunks[0], channels, *grid)
    with torch.no_grad():
        cache = first(*beside(codec, {"latents": head}).values())[1 : 1 + len(names)]
    outputs = ("frames", *(f"next__{name}" for name in names), *(["frames_mean"] if quantise else []))
    carry = {f"next__{name}": name for name in names}
    inputs = {"latents": _randn(1, codec.chunks[1], channels, *grid)} | dict(zip(names, cache, strict=True))
    return (
        Graph("decode_first", first, {"latents": head}, outputs),
        Graph("decode_next", following, inputs, outputs, carry=carry),
    )


def _frames(preset: Preset, networks: Networks) -> Graph:
    inputs = {"frames": _images(2, *preset.high, 3)}
    return Graph("frame_encoder", EncodeFramesEngine(networks.frame_encoder), inputs, ("features",), {"frames": FRAMES})


def _policy(preset: Preset, networks: Networks) -> Graph:
    policy = preset.policy
    inputs = {
        "state": _randn(2, policy.horizon, policy.dof),
        "time": torch.tensor([50.0]),
        "features": _randn(2, networks.frame_encoder.width * len(policy.offsets)),
    }
    dynamic = {"state": CHUNKS_DRAWN, "features": CHUNKS_DRAWN}
    return Graph("policy", PolicyEngine(networks.policy), inputs, ("velocity",), dynamic)
