"""The rows of every kind of sampler, built in float64 from its settings (`spec.SamplerSpec`)."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import cos, isfinite, log, pi, sqrt

import numpy as np

from ..errors import ConfigError
from ..sampler import Sampler, Step
from ..types import DoubleArray
from .schedule import cogvideox_signal, edm_levels, flow_times, leading, squared_cosine_signal, trailing
from .spec import SamplerSpec


def build_sampler(spec: SamplerSpec) -> Sampler:
    """Return the sampler that ``spec`` describes; raises `ConfigError` where one of its rows would not be finite."""
    sigma = spec.sigma_max
    try:
        with np.errstate(all="ignore"):
            rows = ROWS[spec.kind](spec)
    except ArithmeticError:
        rows = ()
    if not rows or not all(isfinite(number) for row in rows for number in _numbers(row)):
        raise ConfigError(
            "SAMPLER_RANGE", f"{spec.kind}: its settings lie so far apart that its steps are no numbers: {spec}"
        )
    return Sampler(rows, sigma / (1.0 + sigma) if spec.kind == "edm_euler" else 1.0)


def _numbers(row: Step) -> tuple[float, ...]:
    return (row.time, row.a, row.b, row.c, row.d, row.p, row.q, row.guidance, *(row.clip or ()))


def guidance_at(spec: SamplerSpec, index: int, timestep: float) -> float:
    """Return the guidance weight of one step.

    ``dynamic_step`` is the cosine over the step index, falling from 1 + guidance to 1. ``dynamic_timestep`` is that
    formula as CogVideoX's own sampler and diffusers code it: with the raw timestep (0..999) in the index's place, so
    that the weight jumps.
    """
    if spec.guidance_schedule == "constant":
        return spec.guidance
    at = index if spec.guidance_schedule == "dynamic_step" else timestep
    progress = ((spec.steps - at) / spec.steps) ** spec.guidance_exponent
    return 1.0 + spec.guidance * (1.0 - cos(pi * progress)) / 2.0


def _grid(spec: SamplerSpec) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """Return timesteps, and alpha and sigma at each of them and at the clean end."""
    times = trailing(spec.train_steps, spec.steps)
    signal = cogvideox_signal(spec.train_steps, spec.beta_start, spec.beta_end, spec.snr_shift)
    alpha = np.append(signal[times.astype(int)], 1.0)
    return times, alpha, np.sqrt(np.maximum(1.0 - alpha**2, 0.0))


def _ddim_v(spec: SamplerSpec) -> tuple[Step, ...]:
    times, alpha, sigma = _grid(spec)
    return tuple(
        Step(
            float(times[i]),
            float(alpha[i + 1] * alpha[i] + sigma[i + 1] * sigma[i]),
            float(sigma[i + 1] * alpha[i] - alpha[i + 1] * sigma[i]),
            guidance=guidance_at(spec, i, times[i]),
        )
        for i in range(spec.steps)
    )


def _multistep_ratio(alpha: DoubleArray, sigma: DoubleArray, i: int) -> float:
    """Return r = h_i / (2 h_(i-1)); 0 where history is missing or a log-SNR step is infinite."""
    if i < 2 or sigma[i + 1] == 0.0:
        return 0.0
    here, before = (log(alpha[k + 1] * sigma[k] / (sigma[k + 1] * alpha[k])) for k in (i, i - 1))
    return here / (2.0 * before)


def _dpmpp_2m(spec: SamplerSpec) -> tuple[Step, ...]:
    times, alpha, sigma = _grid(spec)
    rows = []
    for i, ddim in enumerate(_ddim_v(spec)):
        e = alpha[i] * sigma[i + 1] / (sigma[i] * alpha[i + 1])
        gain = float(alpha[i + 1] * (1.0 - e)) * _multistep_ratio(alpha, sigma, i)
        a, b = ddim.a + gain * float(alpha[i]), ddim.b - gain * float(sigma[i])
        rows.append(Step(float(times[i]), a, b, -gain, 0.0, float(alpha[i]), -float(sigma[i]), ddim.guidance))
    return tuple(rows)


def _dpmpp_2m_sde(spec: SamplerSpec) -> tuple[Step, ...]:
    times, alpha, sigma = _grid(spec)
    rows = []
    for i in range(spec.steps):
        e = float(alpha[i] * sigma[i + 1] / (sigma[i] * alpha[i + 1]))
        gain, r = float(alpha[i + 1]) * (1.0 - e * e), _multistep_ratio(alpha, sigma, i)
        a = e * float(sigma[i + 1] / sigma[i]) + gain * (1.0 + r) * float(alpha[i])
        b = -gain * (1.0 + r) * float(sigma[i])
        spread = float(sigma[i + 1]) * sqrt(1.0 - e * e)
        weight = guidance_at(spec, i, times[i])
        rows.append(Step(float(times[i]), a, b, -gain * r, spread, float(alpha[i]), -float(sigma[i]), weight))
    return tuple(rows)


def _euler_flow(spec: SamplerSpec) -> tuple[Step, ...]:
    times = flow_times(spec.steps, spec.time_shift)
    return tuple(
        Step(float(now), 1.0, float(then - now), guidance=guidance_at(spec, i, now))
        for i, (now, then) in enumerate(pairwise(times))
    )


def _edm_euler(spec: SamplerSpec) -> tuple[Step, ...]:
    """Euler on u = x / (1 + sigma) over tau = sigma / (1 + sigma) (Cosmos-Predict2, Dream4manip)."""
    sigmas = edm_levels(spec.sigma_min, spec.sigma_max, spec.rho, spec.steps, spec.trained_intervals)
    sigmas = np.append(sigmas, 0.0 if spec.final_sigma_zero else spec.sigma_min)
    taus = sigmas / (1.0 + sigmas)
    return tuple(
        Step(float(now), 1.0, float(then - now), guidance=guidance_at(spec, i, now))
        for i, (now, then) in enumerate(pairwise(taus))
    )


def _ddim_epsilon(spec: SamplerSpec) -> tuple[Step, ...]:
    times = leading(spec.train_steps, spec.steps)
    signal = squared_cosine_signal(spec.train_steps)
    alpha = np.append(signal[times.astype(int)], 1.0)
    sigma = np.sqrt(np.maximum(1.0 - alpha**2, 0.0))
    return tuple(
        Step(
            float(times[i]),
            float(alpha[i + 1]),
            float(sigma[i + 1]),
            guidance=guidance_at(spec, i, times[i]),
            clip=(spec.clip, float(1.0 / alpha[i]), -float(sigma[i] / alpha[i])),
        )
        for i in range(spec.steps)
    )


ROWS: Mapping[str, Callable[[SamplerSpec], tuple[Step, ...]]] = {
    "ddim_v": _ddim_v,
    "dpmpp_2m": _dpmpp_2m,
    "dpmpp_2m_sde": _dpmpp_2m_sde,
    "euler_flow": _euler_flow,
    "edm_euler": _edm_euler,
    "ddim_epsilon": _ddim_epsilon,
}
