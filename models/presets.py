"""Every system that can be built, at every size."""

from collections.abc import Mapping
from types import MappingProxyType

from dvgwm.runtime.errors import ConfigError

from .sizes import COG_2B, COG_5B, DiT, LinearCodecSize, Policy, Preset, Sampling, Scaling, Text, VaeSize

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
