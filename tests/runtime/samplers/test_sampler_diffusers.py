"""Every table against diffusers' scheduler, step by step, with a nonlinear network, in float64 and within 1e-6.

diffusers' flow-matching scheduler casts the sample to float32 inside, and its rounding stays under the same bound; the
others agree to 1e-12.
"""

import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")

from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.schedule import cogvideox_signal, squared_cosine_signal
from dvgwm.runtime.samplers.spec import SamplerSpec

pytestmark = pytest.mark.torch

EXACT, ROUNDED = 1e-12, 1e-6
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
    rows = build_sampler(SamplerSpec("ddim_v", steps, snr_shift=shift)).steps
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
    rows = build_sampler(SamplerSpec("dpmpp_2m_sde", steps)).steps
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


def dpm_solver(times, signal):
    """diffusers' deterministic multistep solver on the CogVideoX grid, in float64."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(len(times))
    assert scheduler.timesteps.tolist() == times
    visited = torch.from_numpy(signal[[int(time) for time in times]]).clamp_min(1e-6)
    scheduler.sigmas = torch.cat([(1 - visited**2).sqrt() / visited, torch.zeros(1, dtype=torch.float64)])
    return scheduler


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [4, 10, 25, 50])
def test_dpmpp_2m(steps, shift):
    """Each row from diffusers' own state and history, from the third step on, the clean end included.

    The first two steps differ by design: diffusers needs a finite log-SNR at zero signal (here 1e-6), and ours are plain
    DDIM steps. `step` itself casts to float32, so its parts are called.
    """
    rows = build_sampler(SamplerSpec("dpmpp_2m", steps, snr_shift=shift)).steps
    scheduler = dpm_solver([row.time for row in rows], cogvideox_signal(1000, 0.00085, 0.012, shift))
    x, history = start(), np.zeros((2, 3, 5))
    for index, row in enumerate(rows):
        scheduler._step_index = index
        v = network(x, row.time)
        clean = scheduler.convert_model_output(torch.from_numpy(v), sample=torch.from_numpy(x))
        scheduler.model_outputs = parts = [scheduler.model_outputs[1], clean]
        if index in (0, steps - 1):
            theirs = scheduler.dpm_solver_first_order_update(clean, sample=torch.from_numpy(x)).numpy()
        else:
            theirs = scheduler.multistep_dpm_solver_second_order_update(parts, sample=torch.from_numpy(x)).numpy()
        ours, history = ours_step(row, x, v, history)
        if index >= 2:
            assert relative(ours, theirs) < EXACT, index
            assert relative(history, clean.numpy()) < EXACT, index
        x = theirs


@pytest.mark.parametrize("steps", [4, 10, 15, 25, 50])
def test_dpmpp_2m_through_diffusers_step(steps):
    """The same rows against `step` as users call it, to float32's rounding: its choice of order is ours too."""
    rows = build_sampler(SamplerSpec("dpmpp_2m", steps)).steps
    scheduler = dpm_solver([row.time for row in rows], cogvideox_signal(1000, 0.00085, 0.012, 1.0))
    x, history = start(), np.zeros((2, 3, 5))
    for index, (row, time) in enumerate(zip(rows, scheduler.timesteps, strict=True)):
        v = network(x, row.time)
        theirs = scheduler.step(torch.from_numpy(v), time, torch.from_numpy(x), return_dict=False)[0].numpy()
        ours, history = ours_step(row, x, v, history)
        if index >= 2:
            assert relative(ours, theirs) < ROUNDED, index
        x = theirs


@pytest.mark.parametrize("shift", [1.0, 2.5])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_euler_flow(steps, shift):
    """diffusers runs sigma from 1 to 0 with noise - data as its velocity; ours runs tau from 0 to 1."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
    rows = build_sampler(SamplerSpec("euler_flow", steps, time_shift=shift)).steps
    ours = theirs = start()
    for row, time in zip(rows, scheduler.timesteps, strict=True):
        assert 1000 * (1 - row.time) == pytest.approx(float(time), abs=1e-3)
        ours, _ = ours_step(row, ours, network(ours, row.time), 0.0)
        v = torch.from_numpy(-network(theirs, row.time))
        theirs = scheduler.step(v, time, torch.from_numpy(theirs), return_dict=False)[0].double().numpy()
        assert relative(ours, theirs) < ROUNDED


def cosmos_scheduler(steps):
    """Cosmos-Predict2's scheduler, set up as its pipeline does it."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002, sigma_data=1.0, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(sigmas=torch.linspace(0, 1, steps, dtype=torch.float64))
    return scheduler


@pytest.mark.parametrize("steps", [4, 10, 35])
@pytest.mark.parametrize(
    "settings",
    [{"final_sigma_zero": False}, {}, {"trained_intervals": 8}, {"trained_intervals": 8, "final_sigma_zero": False}],
    ids=["cosmos", "clean_end", "dream4manip", "dream4manip_sigma_min_end"],
)
def test_edm_euler(steps, settings):
    """Cosmos-Predict2's scheduler and preconditioning as its pipeline writes them, on x = u (1 + sigma)."""
    steps = min(steps, settings.get("trained_intervals", steps))
    rows = build_sampler(SamplerSpec("edm_euler", steps, **settings))
    levels = np.asarray([row.time / (1 - row.time) for row in rows.steps])
    scheduler = cosmos_scheduler(steps)
    if "trained_intervals" not in settings:
        assert np.allclose(scheduler.sigmas[:-1], levels, rtol=1e-5)  # diffusers makes them in float32
    sigmas = np.append(levels, 0.0 if settings.get("final_sigma_zero", True) else 0.002)
    scheduler.sigmas = torch.from_numpy(sigmas)
    ours, x = start() * rows.initial_scale, start() * 80.0
    for index, row in enumerate(rows.steps):
        sigma = sigmas[index]
        ours, _ = ours_step(row, ours, network(ours, row.time), 0.0)
        raw = network(x / (1 + sigma), sigma / (1 + sigma))
        clean = x / (1 + sigma) - sigma / (1 + sigma) * raw
        slope, time = torch.from_numpy((x - clean) / sigma), scheduler.timesteps[index]
        x = scheduler.step(slope, time, torch.from_numpy(x), return_dict=False)[0].numpy()
        assert relative(ours, x / (1 + sigmas[index + 1])) < ROUNDED, index


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
    rows = build_sampler(SamplerSpec("ddim_epsilon", steps, train_steps=100)).steps
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


def test_grids_that_do_not_divide_the_training_steps():
    """diffusers' DDIM steps by floor(1000 / N) there and can end unclean; ours visits its timesteps and ends clean."""
    scheduler = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=1.0, **COG)
    for steps in (30, 35):
        scheduler.set_timesteps(steps)
        rows = build_sampler(SamplerSpec("ddim_v", steps)).steps
        assert [row.time for row in rows] == scheduler.timesteps.tolist()
        alpha = float(scheduler.alphas_cumprod[scheduler.timesteps[-1]].sqrt())
        assert (rows[-1].a, rows[-1].b) == pytest.approx((alpha, -math.sqrt(1 - alpha**2)), rel=1e-12)


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_a_coefficient_slightly_off_is_seen(name):
    """A negative control for the comparisons above: every coefficient counts in `ours_step`."""
    row = build_sampler(SamplerSpec("dpmpp_2m_sde", 10)).steps[4]
    off = dataclasses.replace(row, **{name: getattr(row, name) + 1e-5})
    x, history, noise = start(), start() + 0.5, start() - 0.3
    right, wrong = (ours_step(each, x, network(x, row.time), history, noise)[0] for each in (row, off))
    assert relative(wrong, right) > ROUNDED


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (SamplerSpec("ddim_v", 10), SamplerSpec("ddim_v", 10, snr_shift=1.01)),
        (SamplerSpec("ddim_v", 10), SamplerSpec("dpmpp_2m", 10)),
        (SamplerSpec("dpmpp_2m", 10), SamplerSpec("dpmpp_2m_sde", 10)),
        (SamplerSpec("euler_flow", 8), SamplerSpec("euler_flow", 8, time_shift=1.01)),
        (SamplerSpec("edm_euler", 8), SamplerSpec("edm_euler", 8, rho=7.01)),
        (SamplerSpec("edm_euler", 8), SamplerSpec("edm_euler", 8, trained_intervals=8)),
        (SamplerSpec("ddim_epsilon", 8, train_steps=100), SamplerSpec("ddim_epsilon", 8, train_steps=101)),
    ],
)
def test_another_sampler_is_told_apart(right, wrong):
    """A second negative control: the nonlinear network and the bounds do see a sampler near by."""
    ends = []
    for spec in (right, wrong):
        x, history = start(), np.zeros((2, 3, 5))
        for row in build_sampler(spec).steps[:5]:
            x, history = ours_step(row, x, network(x, row.time), history)
        ends.append(x)
    assert relative(*ends) > 10 * ROUNDED


def test_dynamic_guidance_is_diffusers_formula_as_coded():
    steps, weight = 50, 6.0
    scheduler = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=1.0, **COG)
    scheduler.set_timesteps(steps)
    theirs = [
        1 + weight * ((1 - math.cos(math.pi * ((steps - t.item()) / steps) ** 5.0)) / 2) for t in scheduler.timesteps
    ]
    rows = build_sampler(SamplerSpec("ddim_v", steps, weight, "dynamic_timestep")).steps
    assert [row.guidance for row in rows] == pytest.approx(theirs)
