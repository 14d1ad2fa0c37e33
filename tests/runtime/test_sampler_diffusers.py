"""Every table against diffusers' scheduler, step by step, with a nonlinear network, in float64.

diffusers' flow-matching and multistep schedulers cast the sample to float32 inside; there the bound is float32's.
"""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")

from dvgwm.runtime.sampler import SamplerSpec, table
from dvgwm.runtime.schedule import squared_cosine_signal

pytestmark = pytest.mark.torch

EXACT, SINGLE = 1e-6, 5e-6
COG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def network(x, time):
    """Something nonlinear that depends on state and time."""
    return np.tanh(1.3 * x + 0.2) * math.cos(0.003 * time) - 0.4 * x


def start():
    return np.random.default_rng(0).standard_normal((2, 3, 5))


def relative(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def ours_step(row, x, v, history, noise=0.0):
    kept = row.p * x + row.q * v
    if row.clip is not None:
        limit, a0, b0 = row.clip
        return row.a * np.clip(a0 * x + b0 * v, -limit, limit) + row.b * v, kept
    return row.a * x + row.b * v + row.c * history + row.d * noise, kept


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [4, 10, 25, 50])
def test_ddim_v(steps, shift):
    scheduler = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=shift, **COG)
    scheduler.set_timesteps(steps)
    rows = table(SamplerSpec("ddim_v", steps, snr_shift=shift)).steps
    ours = theirs = start()
    for row, time in zip(rows, scheduler.timesteps, strict=True):
        assert row.time == time
        ours, _ = ours_step(row, ours, network(ours, row.time), 0.0)
        v = torch.from_numpy(network(theirs, row.time))
        theirs = scheduler.step(v, time, torch.from_numpy(theirs), return_dict=False)[0].numpy()
        assert relative(ours, theirs) < EXACT


@pytest.mark.parametrize("steps", [4, 10, 25, 50])
def test_dpmpp_2m_sde(steps):
    """CogVideoX's own DPM sampler. It draws twice in every step that has a history and uses the second draw."""
    scheduler = diffusers.CogVideoXDPMScheduler(snr_shift_scale=1.0, **COG)
    scheduler.set_timesteps(steps)
    rows = table(SamplerSpec("dpmpp_2m_sde", steps)).steps
    draws, mirror = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    ours = theirs = start()
    history, old, times = np.zeros_like(ours), None, list(scheduler.timesteps)
    for index, (row, time) in enumerate(zip(rows, times, strict=True)):
        v = torch.from_numpy(network(theirs, row.time))
        back = times[index - 1] if index else None
        stepped, old = scheduler.step(v, old, time, back, torch.from_numpy(theirs), generator=draws, return_dict=False)
        noise = torch.randn(ours.shape, generator=mirror, dtype=torch.float64)
        if 0 < index < steps - 1:
            noise = torch.randn(ours.shape, generator=mirror, dtype=torch.float64)
        ours, history = ours_step(row, ours, network(ours, row.time), history, noise.numpy())
        theirs = stepped.numpy()
        assert relative(ours, theirs) < EXACT, index


@pytest.mark.parametrize("steps", [15, 25, 50])
def test_dpmpp_2m(steps):
    """From the third step on, each of our rows from diffusers' own state and history.

    The first two steps differ by design: diffusers replaces the infinite log-SNR at zero signal by a large number.
    """
    ours_grid = table(SamplerSpec("dpmpp_2m", steps)).steps
    cog = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=1.0, **COG)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    scheduler.alphas_cumprod = cog.alphas_cumprod.clamp_min(1e-12)
    scheduler.set_timesteps(steps)
    signal = scheduler.alphas_cumprod[[int(row.time) for row in ours_grid]]
    scheduler.sigmas = torch.cat([((1 - signal) / signal).sqrt(), torch.zeros(1, dtype=torch.float64)])
    x, history = start(), None
    for index, (row, time) in enumerate(zip(ours_grid, scheduler.timesteps, strict=True)):
        v = network(x, row.time)
        theirs = scheduler.step(torch.from_numpy(v), time, torch.from_numpy(x), return_dict=False)[0].double().numpy()
        made, kept = ours_step(row, x, v, 0.0 if history is None else history)
        if index >= 2:
            assert relative(made, theirs) < SINGLE, index
        x, history = theirs, kept


@pytest.mark.parametrize("shift", [1.0, 2.5])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_euler_flow(steps, shift):
    """diffusers runs sigma from 1 to 0 with noise - data as its velocity; ours runs tau from 0 to 1."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
    rows = table(SamplerSpec("euler_flow", steps, time_shift=shift)).steps
    ours = theirs = start()
    for row, time in zip(rows, scheduler.timesteps, strict=True):
        assert 1000 * (1 - row.time) == pytest.approx(float(time), abs=1e-3)
        ours, _ = ours_step(row, ours, network(ours, row.time), 0.0)
        v = torch.from_numpy(-network(theirs, row.time))
        theirs = scheduler.step(v, time, torch.from_numpy(theirs), return_dict=False)[0].double().numpy()
        assert relative(ours, theirs) < SINGLE


@pytest.mark.parametrize("steps", [4, 10, 35])
def test_edm_euler(steps):
    """Cosmos-Predict2's scheduler and preconditioning as its pipeline writes them, on x = u (1 + sigma)."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(steps)
    theirs = scheduler._convert_to_karras(torch.tensor([80.0, 0.002]), steps)
    ramp = np.linspace(0, 1, steps)
    sigmas = (80.0 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80.0 ** (1 / 7))) ** 7
    assert np.allclose(theirs, sigmas, rtol=1e-5)
    scheduler.sigmas = torch.from_numpy(np.append(sigmas, sigmas[-1]))
    rows = table(SamplerSpec("edm_euler", steps, final_sigma_zero=False))
    ours = start() * rows.initial_scale
    x = start() * 80.0
    for index, row in enumerate(rows.steps):
        sigma = sigmas[index]
        tau = sigma / (1 + sigma)
        assert row.time == pytest.approx(tau, rel=1e-12)
        ours, _ = ours_step(row, ours, network(ours, row.time), 0.0)
        raw = network(x / (1 + sigma), tau)
        x0 = x / (1 + sigma) - tau * raw
        direction = torch.from_numpy((x - x0) / sigma)
        x = (
            scheduler.step(direction, scheduler.timesteps[index], torch.from_numpy(x), return_dict=False)[0]
            .double()
            .numpy()
        )
        following = sigmas[min(index + 1, steps - 1)]
        assert relative(ours, x / (1 + following)) < SINGLE, index


@pytest.mark.parametrize("steps", [4, 8, 10, 16])
def test_ddim_epsilon_with_its_clip(steps):
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type="epsilon", clip_sample=True
    )
    signal = squared_cosine_signal(100)
    assert np.allclose(scheduler.alphas_cumprod.numpy(), signal**2, rtol=1e-4, atol=1e-7)
    scheduler.alphas_cumprod = torch.from_numpy(signal**2)
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    rows = table(SamplerSpec("ddim_epsilon", steps, train_steps=100)).steps
    ours = theirs = start()
    clipped = 0
    for row, time in zip(rows, scheduler.timesteps, strict=True):
        assert row.time == time
        limit, a0, b0 = row.clip
        eps = network(ours, row.time)
        clipped += int((np.abs(a0 * ours + b0 * eps) > limit).sum())
        ours, _ = ours_step(row, ours, eps, 0.0)
        v = torch.from_numpy(network(theirs, row.time))
        theirs = scheduler.step(v, time, torch.from_numpy(theirs), return_dict=False)[0].numpy()
        assert relative(ours, theirs) < EXACT
    assert clipped > 0, "the clip has to have mattered"


def test_a_wrong_coefficient_is_seen():
    """A negative control for all of the above."""
    scheduler = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=1.0, **COG)
    scheduler.set_timesteps(10)
    row = table(SamplerSpec("ddim_v", 10, snr_shift=1.01)).steps[3]
    x = start()
    ours, _ = ours_step(row, x, network(x, row.time), 0.0)
    v = torch.from_numpy(network(x, row.time))
    theirs = scheduler.step(v, scheduler.timesteps[3], torch.from_numpy(x), return_dict=False)[0].numpy()
    assert relative(ours, theirs) > 100 * EXACT


def test_dynamic_guidance_is_diffusers_formula_as_coded():
    steps, weight = 50, 6.0
    scheduler = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=1.0, **COG)
    scheduler.set_timesteps(steps)
    theirs = [
        1 + weight * ((1 - math.cos(math.pi * ((steps - t.item()) / steps) ** 5.0)) / 2) for t in scheduler.timesteps
    ]
    rows = table(SamplerSpec("ddim_v", steps, weight, "dynamic_timestep")).steps
    assert [row.guidance for row in rows] == pytest.approx(theirs)
