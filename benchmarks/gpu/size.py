"""The sizes of the networks that are measured, apart from `measure`: not every part has a network."""

from dvgwm.models.presets import preset
from dvgwm.models.sizes import Preset

from .measure import Bench

TRIAL_FRAMES = 17


def size_of(bench: Bench) -> Preset:
    """Return the preset; in a trial its clips have `TRIAL_FRAMES`, since a CPU may decode bf16 slowly."""
    return preset(bench.preset).shortened(0, TRIAL_FRAMES if bench.small else 0)
