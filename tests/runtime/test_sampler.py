"""The coefficient tables against closed forms, and the plain twin of the fused step."""

import math
from itertools import pairwise

import numpy as np
import pytest

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.sampler import KINDS, SamplerSpec, Step, advance, guidance_at, table
from dvgwm.runtime.schedule import cogvideox_signal, flow_times, karras, signal_and_noise


def solve(spec, network, state, rng=None):
    """Run a table in float64 with a network of (state, time)."""
    history, rows = np.zeros_like(state), table(spec)
    state = state * rows.initial_scale
    for row in rows.steps:
        v = network(state, row.time)
        kept = row.p * state + row.q * v
        if row.clip is None:
            state = row.a * state + row.b * v + row.c * history
        else:
            limit, a0, b0 = row.clip
            state = row.a * np.clip(a0 * state + b0 * v, -limit, limit) + row.b * v
        if row.d and rng is not None:
            state = state + row.d * rng.standard_normal(state.shape)
        history = kept
    return state


SPREAD = 0.5


def gaussian_velocity(state, time):
    """The exact v of data N(0, SPREAD^2) on CogVideoX's grid."""
    alpha = cogvideox_signal(1000, 0.00085, 0.012, 1.0)[int(time)]
    sigma = math.sqrt(1 - alpha**2)
    variance = (alpha * SPREAD) ** 2 + sigma**2
    x0 = alpha * SPREAD**2 / variance * state
    return alpha * (state - alpha * x0) / sigma - sigma * x0


@pytest.mark.parametrize("kind", ["ddim_v", "dpmpp_2m"])
def test_a_gaussian_comes_out_with_its_spread_and_better_with_more_steps(kind):
    """The probability-flow ODE maps unit noise linearly to data of the right spread: x0 = SPREAD * noise."""
    noise = np.linspace(-2, 2, 9)
    errors = [
        np.abs(solve(SamplerSpec(kind, steps), gaussian_velocity, noise) - SPREAD * noise).max()
        for steps in (10, 20, 50, 100)
    ]
    assert all(later < earlier for earlier, later in pairwise(errors))
    assert errors[-1] < (0.05 if kind == "ddim_v" else 0.02)


def test_the_second_order_solver_beats_the_first():
    noise = np.linspace(-2, 2, 9)
    first, second = (
        np.abs(solve(SamplerSpec(kind, 50), gaussian_velocity, noise) - SPREAD * noise).max()
        for kind in ("ddim_v", "dpmpp_2m")
    )
    assert second < 0.7 * first


def test_the_stochastic_solver_keeps_the_spread():
    rng = np.random.default_rng(0)
    made = solve(SamplerSpec("dpmpp_2m_sde", 200), gaussian_velocity, rng.standard_normal(200_000), rng)
    assert made.std() == pytest.approx(SPREAD, rel=0.02)
    assert made.mean() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("shift", [1.0, 2.5])
def test_euler_flow_follows_a_straight_line_exactly_and_a_curve_to_first_order(steps, shift):
    start, end = np.asarray([1.0, -2.0]), np.asarray([0.3, 0.7])
    made = solve(SamplerSpec("euler_flow", steps, time_shift=shift), lambda x, t: end - start, start)
    assert np.allclose(made, end, atol=1e-14)
    expected = np.prod([1 + b - a for a, b in pairwise(flow_times(steps, shift))])
    assert solve(SamplerSpec("euler_flow", steps, time_shift=shift), lambda x, t: x, np.ones(1))[0] == pytest.approx(
        expected, rel=1e-14
    )


def test_euler_flow_converges_to_the_exponential():
    errors = [abs(solve(SamplerSpec("euler_flow", k), lambda x, t: x, np.ones(1))[0] - math.e) for k in (8, 16, 32)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


def test_flow_times_are_the_papers():
    assert np.allclose(flow_times(4, 1.0), [0, 0.25, 0.5, 0.75, 1])
    assert np.allclose(flow_times(4, 2.5), [0, 0.118, 0.286, 0.545, 1], atol=1e-3)


def test_edm_euler_recovers_a_gaussian():
    """u = x / (1 + sigma); the exact velocity of data N(0, SPREAD^2) is eps - x0."""

    def velocity(u, tau):
        sigma = tau / (1 - tau)
        x = u * (1 + sigma)
        x0 = SPREAD**2 / (SPREAD**2 + sigma**2) * x
        return (x - x0) / sigma - x0

    noise = np.linspace(-2, 2, 9)
    errors = [
        np.abs(solve(SamplerSpec("edm_euler", steps), velocity, noise) - SPREAD * noise).max() for steps in (18, 35, 70)
    ]
    assert all(later < earlier for earlier, later in pairwise(errors))
    assert errors[-1] < 0.05


def test_edm_grids_are_cosmos_and_dream4manips():
    """Dream4manip's eight intervals and their zero end: .002, .026, .170, .743, 2.515, 7.10, 17.53, 39.02, 80."""
    assert np.allclose(
        karras(0.002, 80.0, 7.0, 9)[::-1], [0.002, 0.026, 0.170, 0.743, 2.515, 7.10, 17.53, 39.02, 80], rtol=0.02
    )
    assert table(SamplerSpec("edm_euler", 4)).initial_scale == pytest.approx(80 / 81)
    repeated = table(SamplerSpec("edm_euler", 5, final_sigma_zero=False)).steps[-1]
    assert (repeated.a, repeated.b) == (1.0, 0.0), "diffusers' last call changes nothing"
    assert table(SamplerSpec("edm_euler", 5)).steps[-1].b != 0.0


def test_ddim_v_is_a_rotation_that_starts_from_zero_signal():
    rows = table(SamplerSpec("ddim_v", 50)).steps
    assert [row.time for row in rows] == list(range(999, 0, -20))
    assert all(row.a**2 + row.b**2 == pytest.approx(1, abs=1e-12) for row in rows)
    assert (rows[0].a, rows[0].b) == (pytest.approx(0.999957, abs=1e-6), pytest.approx(-0.009262, abs=1e-6))
    assert (rows[-1].a, rows[-1].b) == (pytest.approx(0.990460, abs=1e-6), pytest.approx(-0.137803, abs=1e-6))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 30, 35, 50, 1000])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_table_is_finite_at_every_length(kind, steps):
    spec = SamplerSpec(kind, min(steps, 100), train_steps=100 if kind == "ddim_epsilon" else 1000)
    rows = table(spec)
    assert len(rows.steps) == spec.steps
    for row in rows.steps:
        assert all(math.isfinite(n) for n in (row.time, row.a, row.b, row.c, row.d, row.p, row.q, *(row.clip or ())))
    assert rows.has_history == any(row.c for row in rows.steps)


@pytest.mark.parametrize("kind", ["ddim_v", "dpmpp_2m", "dpmpp_2m_sde"])
def test_the_last_step_gives_the_clean_estimate(kind):
    """With the true v of a clean sample, the end is that sample."""
    alpha = cogvideox_signal(1000, 0.00085, 0.012, 1.0)
    x0, eps = 0.7, -1.3
    row = table(SamplerSpec(kind, 50)).steps[-1]
    a = alpha[int(row.time)]
    s = math.sqrt(1 - a**2)
    assert row.a * (a * x0 + s * eps) + row.b * (a * eps - s * x0) == pytest.approx(x0, abs=1e-12)
    assert (row.c, row.d) == (0.0, 0.0)


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


def test_dynamic_guidance_in_both_forms():
    """The original's weight grows along the steps; diffusers' as coded jumps: 2.29, 2.54, 6.97, 6.42, 2.79."""
    original = SamplerSpec("ddim_v", 50, 6.0, "dynamic_step")
    weights = [row.guidance for row in table(original).steps]
    assert weights[0] == pytest.approx(7.0)
    assert sum(weight < 1.1 for weight in weights) == pytest.approx(31, abs=1)
    as_coded = SamplerSpec("ddim_v", 50, 6.0, "dynamic_timestep")
    expected = [
        1 + 6 * (1 - math.cos(math.pi * ((50 - t) / 50) ** 5.0)) / 2
        for t in (row.time for row in table(as_coded).steps)
    ]
    assert [row.guidance for row in table(as_coded).steps] == pytest.approx(expected)
    assert expected[:5] == pytest.approx([2.29, 2.54, 6.97, 6.42, 2.79], abs=6e-3)
    assert guidance_at(SamplerSpec("ddim_v", 50, 6.0), 3, 100.0) == 6.0


def test_advance_is_the_formula_in_place_with_guidance_and_the_old_state_in_the_history():
    rng = np.random.default_rng(1)
    state, history, noise = (rng.standard_normal((1, 3, 4)).astype(np.float32) for _ in range(3))
    velocity = rng.standard_normal((2, 3, 4)).astype(np.float32)
    row = Step(10.0, 0.9, -0.3, 0.2, 0.1, 0.7, -0.6, 5.0)
    v = velocity[:1] + 5.0 * (velocity[1:] - velocity[:1])
    expected = 0.9 * state - 0.3 * v + 0.2 * history + 0.1 * noise
    kept = 0.7 * state - 0.6 * v
    same_state, same_history = state, history
    advance(row, state, velocity, history, noise)
    assert np.allclose(state, expected, atol=1e-5)
    assert np.allclose(history, kept, atol=1e-5)
    assert state is same_state
    assert history is same_history
    assert not np.allclose(state, 0.9 * expected, atol=1e-2)


def test_advance_clips_between_its_two_maps():
    row = Step(0.0, 0.5, 0.25, clip=(1.0, 2.0, -1.0))
    state, velocity = np.asarray([[0.1, 3.0, -3.0]], np.float32), np.asarray([[0.5, 0.5, 0.5]], np.float32)
    advance(row, state, velocity, None, None)
    assert np.allclose(state, [[0.5 * (0.2 - 0.5) + 0.125, 0.5 + 0.125, -0.5 + 0.125]])


@pytest.mark.parametrize(
    ("settings", "log_code"),
    [
        ({"kind": "magic", "steps": 4}, "SAMPLER_UNKNOWN"),
        ({"kind": "ddim_v", "steps": 0}, "SAMPLER_STEPS"),
        ({"kind": "ddim_v", "steps": 1001}, "SAMPLER_STEPS"),
        ({"kind": "ddim_v", "steps": 4, "guidance_schedule": "wild"}, "SAMPLER_GUIDANCE"),
        ({"kind": "ddim_v", "steps": 4, "guidance": math.nan}, "SAMPLER_GUIDANCE"),
    ],
)
def test_what_does_not_exist_is_refused(settings, log_code):
    with pytest.raises(ConfigError) as caught:
        SamplerSpec(**settings)
    assert (caught.value.exit_code, caught.value.log_code) == (2, log_code)
