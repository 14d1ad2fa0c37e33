"""Which graphs a preset needs: a torch module, example inputs and an interface, one per engine file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dvgwm.models.build import Networks, moving_shapes
from dvgwm.models.codec import LinearCodec, fit
from dvgwm.models.engines import (
    DecodeEngine,
    DenoiseEngine,
    EncodeFramesEngine,
    EncodeImageEngine,
    EncodeTextEngine,
    GuidedRefineEngine,
    PolicyEngine,
    streaming,
)
from dvgwm.models.presets import Preset
from dvgwm.models.vae import CHUNKS, StreamingDecoder

from .attention import OperatorAttention
from .onnx_graph import ATTENTION_OPSET, PLAIN_OPSET

BRANCHES, FRAMES = "branches", "frames"
"""Sizes chosen at run time: guidance branches, and frames encoded in one batch."""


@dataclass(frozen=True)
class Graph:
    """A module that takes ``inputs`` by position and gives ``outputs`` in order.

    ``dynamic`` names the inputs whose first size is chosen at run time; their outputs follow it.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, str] = field(default_factory=dict)
    carry: Mapping[str, str] = field(default_factory=dict)
    opset: int = PLAIN_OPSET

    @property
    def file(self) -> str:
        """The engine's file name in the bundle."""
        return f"{self.name}.onnx"


def graphs(preset: Preset, networks: Networks) -> tuple[Graph, ...]:
    """Return the graphs of ``preset`` in the order of the pipeline.

    ``networks`` are made ready for it: attention in operators, and fitted bases for a linear codec that has none.
    """
    ready_codec(preset, networks)
    made = [_encode_text(preset, networks), *_encode_images(preset, networks), _preview(preset, networks)]
    if preset.refiner is not None:
        made.append(_refine(preset, networks))
    return (*made, *_decoders(preset, networks, True), _frames(preset, networks), _policy(preset, networks))


def ready_codec(preset: Preset, networks: Networks) -> None:
    """Fit an empty linear codec on clips of moving shapes, in place."""
    codec = networks.codec
    if isinstance(codec, LinearCodec) and not codec.get_buffer("first_basis").any():
        fitted = fit(moving_shapes(0, 40, 17, preset.low), codec.patch, codec.channels)
        codec.load_state_dict(fitted.state_dict())


def decoders(preset: Preset, networks: Networks, quantise: bool) -> tuple[Graph, Graph]:
    """Return the two decoder graphs; without ``quantise`` their frames are float32 in [0, 1]."""
    return _decoders(preset, networks, quantise)


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def _encode_text(preset: Preset, networks: Networks) -> Graph:
    tokens = torch.zeros(1, preset.text.max_tokens, dtype=torch.int64)
    tokens[0, :6] = torch.arange(3, 9)
    return Graph("text_encoder", EncodeTextEngine(networks.text), {"tokens": tokens}, ("text",))


def _encode_images(preset: Preset, networks: Networks) -> list[Graph]:
    sizes = {"encode_low": preset.low} | ({"encode_high": preset.high} if preset.refiner is not None else {})
    return [
        Graph(name, EncodeImageEngine(networks.codec), {"image": _images(1, *size, 3)}, ("latents",))
        for name, size in sizes.items()
    ]


def _denoise_inputs(preset: Preset, size: tuple[int, int], branches: int) -> dict[str, Tensor]:
    channels, grid = preset.codec.channels, preset.grid(size)
    return {
        "state": _randn(1, preset.latent_frames, channels, *grid),
        "time": torch.tensor([0.5]),
        "text": _randn(branches, preset.text.max_tokens, preset.text.width),
        "image": _randn(1, 1, channels, *grid),
    }


def _preview(preset: Preset, networks: Networks) -> Graph:
    grid = preset.grid(preset.low)
    networks.preview.set_attn_processor(OperatorAttention())
    engine = DenoiseEngine(networks.preview, preset.preview, grid, preset.latent_frames, flow=False)
    inputs = _denoise_inputs(preset, preset.low, 2) | {"time": torch.tensor([499.0])}
    return Graph("preview", engine, inputs, ("velocity",), {"text": BRANCHES}, opset=ATTENTION_OPSET)


def _refine(preset: Preset, networks: Networks) -> Graph:
    assert preset.refiner is not None
    assert networks.refiner is not None
    grid = preset.grid(preset.high)
    networks.refiner.set_attn_processor(OperatorAttention())
    engine = DenoiseEngine(networks.refiner, preset.refiner, grid, preset.latent_frames, flow=True)
    inputs = _denoise_inputs(preset, preset.high, 2)
    if preset.refiner_sees_preview:
        engine = GuidedRefineEngine(engine, preset.preview_scaling, preset.refiner_scaling)
        inputs["preview"] = _randn(1, preset.latent_frames, preset.codec.channels, *preset.grid(preset.low))
    return Graph("refine", engine, inputs, ("velocity",), {"text": BRANCHES}, opset=ATTENTION_OPSET)


def _decoders(preset: Preset, networks: Networks, quantise: bool) -> tuple[Graph, Graph]:
    codec, grid, channels = streaming(networks.codec), preset.grid(preset.high), preset.codec.channels
    names = codec.cache_names(channels, grid) if isinstance(codec, StreamingDecoder) else ()
    first, following = (
        DecodeEngine(codec, preset.refiner_scaling, names, is_first, quantise) for is_first in (True, False)
    )
    head = _randn(1, CHUNKS[0], channels, *grid)
    with torch.no_grad():
        cache = first(head)[1:] if names else ()
    outputs = ("frames", *(f"next__{name}" for name in names))
    carry = {f"next__{name}": name for name in names}
    inputs = {"latents": _randn(1, CHUNKS[1], channels, *grid)} | dict(zip(names, cache, strict=True))
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
        "features": _randn(2, networks.frame_encoder.width),
    }
    dynamic = {"state": FRAMES, "features": FRAMES}
    return Graph("policy", PolicyEngine(networks.policy), inputs, ("velocity",), dynamic)
