"""Builds all networks of a preset, with seeded weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import wan, wan_vae
from .codec import LinearCodec
from .dit import build_transformer
from .policy import ActionUNet, FrameEncoder
from .sizes import LinearCodecSize, Preset, VaeSize
from .text import build_text_encoder
from .vae import build_vae
from .waypoints import Waypoints, path_channels


@dataclass(frozen=True)
class Networks:
    """The modules of one preset, in evaluation mode; ``refiner`` is None for one-stage systems, ``vision`` but for Wan's.

    ``waypoints`` tell the path that the preview draws along, None where it finds its own.
    ``low_codec`` is the preview's: a linear codec has a basis for each size, a VAE is the same for both.
    """

    preview: Any
    waypoints: Waypoints | None
    refiner: Any
    low_codec: nn.Module
    codec: nn.Module
    text: nn.Module
    frame_encoder: FrameEncoder
    policy: ActionUNet
    vision: nn.Module | None = None

    def parts(self) -> dict[str, nn.Module]:
        """Return the modules by name."""
        named = {
            "preview": self.preview,
            "waypoints": self.waypoints,
            "refiner": self.refiner,
            "low_codec": None if self.low_codec is self.codec else self.low_codec,
            "codec": self.codec,
            "text": self.text,
            "vision": self.vision,
            "frame_encoder": self.frame_encoder,
            "policy": self.policy,
        }
        return {name: module for name, module in named.items() if module is not None}


def build(preset: Preset, seed: int = 0, device: str = "cpu") -> Networks:
    """Return the preset's networks with seeded random weights; on ``device`` meta they have shapes and no memory."""
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        frame_encoder, codec = FrameEncoder(preset.policy), _codec(preset)
        channels, dof = preset.preview.waypoints, preset.policy.dof
        networks = Networks(
            preview=_preview(preset),
            waypoints=Waypoints(channels, preset.text.width, preset.frames - 1, dof) if channels else None,
            refiner=_refiner(preset),
            low_codec=_codec(preset) if isinstance(codec, LinearCodec) and preset.low != preset.high else codec,
            codec=codec,
            text=build_text_encoder(preset.text),
            frame_encoder=frame_encoder,
            policy=ActionUNet(preset.policy, frame_encoder.width * len(preset.policy.offsets)),
            vision=None if preset.vision is None else wan.build_vision(preset.vision),
        )
    for module in networks.parts().values():
        module.eval().requires_grad_(False)
    return networks


def _preview(preset: Preset) -> Any:
    if preset.family == "wan":
        return wan.build_transformer(preset)
    path = path_channels(preset.policy.dof) if preset.preview.waypoints else 0
    return build_transformer(preset.preview, preset, 1, path)


def _refiner(preset: Preset) -> Any:
    if preset.refiner is None:
        return None
    return build_transformer(preset.refiner, preset, conditions=2 if preset.refiner_sees_preview else 1)


def _codec(preset: Preset) -> nn.Module:
    size = preset.codec
    if isinstance(size, LinearCodecSize):
        return LinearCodec(size.patch, size.channels)
    return build_vae(size) if isinstance(size, VaeSize) else wan_vae.build_vae(size, preset.preview_scaling)


def parameters(module: nn.Module) -> int:
    """Return how many parameters ``module`` has."""
    return sum(tensor.numel() for tensor in module.parameters())


def moving_shapes(seed: int, clips: int, frames: int, size: tuple[int, int]) -> Tensor:
    """Return clips B 3 T H W in [-1, 1] of coloured boxes that move over a plain ground: to fit a codec on."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
    video = torch.rand(clips, 3, 1, 1, 1, generator=generator).mul(2).sub(1).repeat(1, 1, frames, height, width)
    for clip in video:
        for _ in range(4):
            colour = torch.rand(3, generator=generator) * 2 - 1
            start, speed = torch.rand(2, generator=generator), torch.rand(2, generator=generator) * 0.02 - 0.01
            half = torch.rand(2, generator=generator) * 0.12 + 0.04
            for frame in range(frames):
                at = start + speed * frame
                inside = ((rows / height - at[0]).abs() < half[0]) & ((columns / width - at[1]).abs() < half[1])
                clip[:, frame, inside] = colour[:, None]
    return video
