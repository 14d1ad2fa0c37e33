"""The rows of every sampler against closed forms."""

import math
from itertools import pairwise

import numpy as np
import pytest

from dvgwm.runtime.sampler import advance
from dvgwm.runtime.samplers.rows import ROWS, build_sampler, guidance_at
from dvgwm.runtime.samplers.schedule import cogvideox_signal, flow_times, karras
from dvgwm.runtime.samplers.spec import SamplerSpec


def solve(spec, network, state, rng=None):
    """Run the rows in float64 with a network of (state, time)."""
    history, rows = np.zeros_like(state), build_sampler(spec)
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


@pytest.mark.parametrize(("kind", "order"), [("ddim_v", 1), ("dpmpp_2m", 2)])
def test_the_error_of_one_step_falls_with_the_solvers_order(kind, order):
    """From the exact trajectory (its state is the spread at t) at t = 499: half the step, 2^(order + 1) less error."""
    alpha = cogvideox_signal(1000, 0.00085, 0.012, 1.0)
    spread = np.sqrt((alpha * SPREAD) ** 2 + 1 - alpha**2)
    errors = []
    for steps in (10, 20, 40):
        rows = build_sampler(SamplerSpec(kind, steps)).steps
        before, row, after = rows[steps // 2 - 1 : steps // 2 + 2]
        now, old = int(row.time), int(before.time)
        clean_before = alpha[old] * SPREAD**2 / spread[old]
        made = row.a * spread[now] + row.b * gaussian_velocity(spread[now], now) + row.c * clean_before
        errors.append(abs(made - spread[int(after.time)]))
    assert [coarse / fine for coarse, fine in pairwise(errors)] == pytest.approx([2 ** (order + 1)] * 2, rel=0.1)


@pytest.mark.parametrize("steps", [2, 3, 4, 10, 50])
def test_the_second_order_solver_is_ddim_where_a_log_snr_step_is_infinite(steps):
    ddim, multistep = (build_sampler(SamplerSpec(kind, steps)).steps for kind in ("ddim_v", "dpmpp_2m"))
    for index in {0, 1, steps - 1}:
        assert (multistep[index].a, multistep[index].b, multistep[index].c) == (ddim[index].a, ddim[index].b, 0.0)
    assert all(row.c != 0.0 for row in multistep[2:-1])


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


def levels(spec):
    return [row.time / (1 - row.time) for row in build_sampler(spec).steps]


def test_edm_grids_are_cosmos_and_dream4manips():
    """Dream4manip's sigma_0 .. sigma_8: .002, .026, .170, .743, 2.515, 7.10, 17.53, 39.02, 80."""
    sigmas = [0.002, 0.026, 0.170, 0.743, 2.515, 7.10, 17.53, 39.02, 80]
    assert np.allclose(karras(0.002, 80.0, 7.0, 9)[::-1], sigmas, rtol=0.02)
    assert levels(SamplerSpec("edm_euler", 9)) == pytest.approx(sigmas[::-1], rel=0.02)
    for steps, visited in {8: sigmas[:0:-1], 4: sigmas[8:0:-2], 3: [80, 17.53, 0.743], 1: [80]}.items():
        assert levels(SamplerSpec("edm_euler", steps, trained_intervals=8)) == pytest.approx(visited, rel=0.02)
    assert build_sampler(SamplerSpec("edm_euler", 4)).initial_scale == pytest.approx(80 / 81)


def test_edm_ends_clean_or_at_the_least_noise():
    """diffusers repeats sigma_min, so its last call changes nothing; the trained levels stop above it."""
    repeated = build_sampler(SamplerSpec("edm_euler", 5, final_sigma_zero=False)).steps[-1]
    assert (repeated.a, repeated.b) == (1.0, 0.0)
    clean = build_sampler(SamplerSpec("edm_euler", 5)).steps[-1]
    assert clean.b == -clean.time
    trained = build_sampler(SamplerSpec("edm_euler", 8, trained_intervals=8, final_sigma_zero=False)).steps[-1]
    assert trained.time + trained.b == pytest.approx(0.002 / 1.002)


@pytest.mark.parametrize("settings", [{}, {"trained_intervals": 8}])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_edm_with_the_true_velocity_of_one_sample_ends_at_it(steps, settings):
    """u = (1 - tau) x0 + tau eps is a straight line, at whatever levels it is cut."""
    clean, noise, first = np.asarray([0.4, -1.1]), np.asarray([1.0, -2.0]), 80 / 81
    state = ((1 - first) * clean + first * noise) / first  # `solve` applies the initial scale
    made = solve(SamplerSpec("edm_euler", steps, **settings), lambda u, tau: noise - clean, state)
    assert np.allclose(made, clean, atol=1e-12)


def test_ddim_v_is_a_rotation_that_starts_from_zero_signal():
    rows = build_sampler(SamplerSpec("ddim_v", 50)).steps
    assert [row.time for row in rows] == list(range(999, 0, -20))
    assert all(row.a**2 + row.b**2 == pytest.approx(1, abs=1e-12) for row in rows)
    assert (rows[0].a, rows[0].b) == (pytest.approx(0.999957, abs=1e-6), pytest.approx(-0.009262, abs=1e-6))
    assert (rows[-1].a, rows[-1].b) == (pytest.approx(0.990460, abs=1e-6), pytest.approx(-0.137803, abs=1e-6))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 30, 35, 50, 1000])
@pytest.mark.parametrize("kind", sorted(ROWS))
def test_every_table_is_finite_at_every_length(kind, steps):
    spec = SamplerSpec(kind, min(steps, 100), train_steps=100 if kind == "ddim_epsilon" else 1000)
    rows = build_sampler(spec)
    assert len(rows.steps) == spec.steps
    for row in rows.steps:
        assert all(math.isfinite(n) for n in (row.time, row.a, row.b, row.c, row.d, row.p, row.q, *(row.clip or ())))
    assert rows.has_history == any(row.c for row in rows.steps)


@pytest.mark.parametrize("kind", ["ddim_v", "dpmpp_2m", "dpmpp_2m_sde"])
def test_the_last_step_gives_the_clean_estimate(kind):
    """With the true v of a clean sample, the end is that sample."""
    alpha = cogvideox_signal(1000, 0.00085, 0.012, 1.0)
    x0, eps = 0.7, -1.3
    row = build_sampler(SamplerSpec(kind, 50)).steps[-1]
    a = alpha[int(row.time)]
    s = math.sqrt(1 - a**2)
    assert row.a * (a * x0 + s * eps) + row.b * (a * eps - s * x0) == pytest.approx(x0, abs=1e-12)
    assert (row.c, row.d) == (0.0, 0.0)


def test_dynamic_guidance_in_both_forms():
    """Over the step index the weight falls from 7 to 1; as coded it jumps: 2.29, 2.54, 6.97, 6.42, 2.79."""
    weights = [row.guidance for row in build_sampler(SamplerSpec("ddim_v", 50, 6.0, "dynamic_step")).steps]
    assert weights[0] == pytest.approx(7.0)
    assert all(later < earlier for earlier, later in pairwise(weights))
    assert sum(weight < 1.1 for weight in weights) == pytest.approx(31, abs=1)
    as_coded = SamplerSpec("ddim_v", 50, 6.0, "dynamic_timestep")
    expected = [
        1 + 6 * (1 - math.cos(math.pi * ((50 - t) / 50) ** 5.0)) / 2
        for t in (row.time for row in build_sampler(as_coded).steps)
    ]
    assert [row.guidance for row in build_sampler(as_coded).steps] == pytest.approx(expected)
    assert expected[:5] == pytest.approx([2.29, 2.54, 6.97, 6.42, 2.79], abs=6e-3)
    assert guidance_at(SamplerSpec("ddim_v", 50, 6.0), 3, 100.0) == 6.0


@pytest.mark.parametrize("kind", sorted(ROWS))
def test_advance_through_a_whole_table_is_the_double_solution(kind):
    spec = SamplerSpec(kind, 8, train_steps=100 if kind == "ddim_epsilon" else 1000)
    rows, start = build_sampler(spec), np.random.default_rng(1).standard_normal((2, 5)).astype(np.float32)
    state = start * np.float32(rows.initial_scale)
    history = np.zeros_like(state) if rows.has_history else None
    noise = np.zeros_like(state) if any(step.d for step in rows.steps) else None
    for row in rows.steps:
        advance(row, state, np.tanh(state) - np.float32(0.3) * state, history, noise)
    expected = solve(spec, lambda x, time: np.tanh(x) - 0.3 * x, start.astype(np.float64))
    assert state.dtype == np.float32
    assert np.allclose(state, expected, atol=2e-5)
