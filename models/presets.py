"""Every system that can be built, at every size."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from dvgwm.runtime.errors import ConfigError

from .sizes import (
    CLIP_H,
    COG_2B,
    COG_5B,
    UMT5_XXL,
    WAN,
    WAN_14B,
    WAN_VAE,
    DiT,
    LinearCodecSize,
    Policy,
    Preset,
    Sampling,
    Scaling,
    Text,
    VaeSize,
    Vision,
    WanVaeSize,
)

_WAN = Preset(
    name="wan_14b",
    family="wan",
    low=(480, 832),
    high=(480, 832),
    preview=WAN_14B,
    refiner=None,
    preview_scaling=WAN,
    refiner_scaling=WAN,
    codec=WAN_VAE,
    text=UMT5_XXL,
    vision=CLIP_H,
    sampling=Sampling("euler_flow", 50, 5.0, preview_time_shift=3.0),
)
_ALL = (
    Preset(
        name="a1_tiny",
        family="dvgwm",
        low=(64, 96),
        high=(128, 192),
        preview=DiT(layers=5, heads=4, time_embed=32, predicts="clean", margin=2, waypoints=32),
        refiner=DiT(layers=3, heads=3, time_embed=64, predicts="clean", margin=4),
        refiner_sees_preview=True,
        codec=LinearCodecSize(patch=8, channels=80),
        preview_scaling=Scaling((0.0,), (1.0,)),
        refiner_scaling=Scaling((0.0,), (1.0,)),
        text=Text(64, 2, 4, 16, 128, 260, 48, "bytes"),
        policy=Policy(12, "spatial_softmax", (32, 64), 32),
        sampling=Sampling(preview_steps=1, preview_guidance=1.0, policy_steps=10),
        drop_short=False,
    ),
    Preset(
        name="dvgwm_5b",
        family="dvgwm",
        low=(256, 384),
        high=(480, 720),
        preview=DiT(layers=42, heads=48, time_embed=512),
        refiner=DiT(layers=30, heads=30, time_embed=512),
        preview_scaling=COG_5B,
        refiner_scaling=COG_2B,
    ),
    Preset(
        name="cogvideox_5b",
        family="cogvideox",
        low=(480, 720),
        high=(480, 720),
        preview=DiT(layers=42, heads=48, time_embed=512),
        refiner=None,
        preview_scaling=COG_5B,
        refiner_scaling=COG_5B,
    ),
    _WAN,
    # Wan's with weights of its own; history is the one frame that the camera shows.
    replace(_WAN, name="lvp_14b", sampling=Sampling("euler_flow", 40, 3.0, preview_time_shift=3.0)),
    Preset(
        name="test_wan",
        family="wan",
        low=(32, 48),
        high=(32, 48),
        preview=DiT(layers=2, heads=2, time_embed=16, head_width=24, feed_forward=64),
        refiner=None,
        preview_scaling=Scaling(WAN.mean[:4], WAN.std[:4]),
        refiner_scaling=Scaling(WAN.mean[:4], WAN.std[:4]),
        codec=WanVaeSize(8, (1, 1, 2, 2), 1, 4),
        text=Text(16, 1, 2, 8, 32, 260, 48, "bytes", "umt5"),
        vision=Vision(16, 3, 2, 32, image=28),
        policy=Policy(8, "average", (16, 32), 16, groups=4, image_size=(48, 64)),
        sampling=Sampling("euler_flow", 4, 5.0, preview_time_shift=3.0, policy_steps=4),
    ),
    Preset(
        name="test_tiny",
        family="dvgwm",
        low=(32, 48),
        high=(64, 96),
        preview=DiT(layers=2, heads=1, time_embed=32),
        refiner=DiT(layers=2, heads=1, time_embed=32),
        refiner_sees_preview=True,
        codec=VaeSize((8, 8, 8, 8), 1, 4, groups=2),
        preview_scaling=COG_5B,
        refiner_scaling=COG_2B,
        text=Text(16, 1, 2, 8, 32, 260, 48, "bytes"),
        policy=Policy(8, "average", (16, 32), 16, groups=4, image_size=(48, 64)),
        sampling=Sampling(preview_steps=4, policy_steps=4),
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})


def preset(name: str) -> Preset:
    """Return the preset called ``name``; raises `ConfigError` naming those that exist."""
    if name not in PRESETS:
        raise ConfigError("PRESET_UNKNOWN", f"wanted a preset of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]
