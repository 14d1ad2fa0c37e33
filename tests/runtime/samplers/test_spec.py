"""A sampler's settings: what is refused, and what may stand in for what."""

import math

import pytest

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.samplers.rows import ROWS
from dvgwm.runtime.samplers.schedule import signal_and_noise
from dvgwm.runtime.samplers.spec import PREDICTS, SamplerSpec, instead


@pytest.mark.parametrize(
    ("step", "shift", "alpha"),
    [
        (50, 1, 0.974),
        (200, 1, 0.859),
        (500, 1, 0.491),
        (675, 1, 0.264),
        (50, 3, 0.929),
        (200, 3, 0.699),
        (675, 3, 0.154),
    ],
)
def test_bridge_strengths_are_the_tables(step, shift, alpha):
    signal, noise = signal_and_noise(step, shift)
    assert signal == pytest.approx(alpha, abs=5e-4)
    assert signal**2 + noise**2 == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "log_code"),
    [
        ({"kind": "magic", "steps": 4}, "SAMPLER_UNKNOWN"),
        ({"kind": "ddim_v", "steps": 0}, "SAMPLER_STEPS"),
        ({"kind": "ddim_v", "steps": 1001}, "SAMPLER_STEPS"),
        ({"kind": "ddim_v", "steps": 1, "train_steps": 1}, "SAMPLER_STEPS"),
        ({"kind": "edm_euler", "steps": 9, "trained_intervals": 8}, "SAMPLER_STEPS"),
        ({"kind": "edm_euler", "steps": 9, "trained_intervals": -1}, "SAMPLER_STEPS"),
        ({"kind": "ddim_v", "steps": 4.0}, "SAMPLER_TYPE"),
        ({"kind": "ddim_v", "steps": True}, "SAMPLER_TYPE"),
        ({"kind": "ddim_v", "steps": 4, "guidance": "6"}, "SAMPLER_TYPE"),
        ({"kind": "ddim_v", "steps": 4, "guidance_schedule": "wild"}, "SAMPLER_GUIDANCE"),
        ({"kind": "euler_flow", "steps": 4, "guidance_schedule": "dynamic_timestep"}, "SAMPLER_GUIDANCE"),
        (
            {"kind": "ddim_v", "steps": 4, "guidance_schedule": "dynamic_timestep", "guidance_exponent": 4.5},
            "SAMPLER_GUIDANCE",
        ),
        ({"kind": "ddim_v", "steps": 4, "guidance": math.nan}, "SAMPLER_GUIDANCE"),
        ({"kind": "ddim_v", "steps": 4, "snr_shift": 0.0}, "SAMPLER_RANGE"),
        ({"kind": "ddim_v", "steps": 4, "beta_end": 1.0}, "SAMPLER_RANGE"),
        ({"kind": "edm_euler", "steps": 4, "sigma_max": 0.001}, "SAMPLER_RANGE"),
        ({"kind": "euler_flow", "steps": 4, "time_shift": math.nan}, "SAMPLER_RANGE"),
    ],
)
def test_what_does_not_exist_is_refused(settings, log_code):
    with pytest.raises(ConfigError) as caught:
        SamplerSpec(**settings)
    assert (caught.value.exit_code, caught.value.log_code) == (2, log_code)


def test_samplers_stand_in_only_for_those_of_the_same_prediction():
    assert ROWS.keys() == PREDICTS.keys()
    spec = SamplerSpec("ddim_v", 20, 6.0, snr_shift=3.0)
    assert instead(spec, "dpmpp_2m") == SamplerSpec("dpmpp_2m", 20, 6.0, snr_shift=3.0)
    for kind, log_code in (("euler_flow", "SAMPLER_FAMILY"), ("magic", "SAMPLER_UNKNOWN")):
        with pytest.raises(ConfigError) as caught:
            instead(spec, kind)
        assert caught.value.log_code == log_code


@pytest.mark.parametrize("step", [-1, 1000])
def test_a_bridge_step_outside_the_grid_is_refused(step):
    with pytest.raises(ConfigError, match="0 to 999"):
        signal_and_noise(step)
