"""One coefficient table drives every sampler.

Each row advances the state by ``x <- a x + b v + c h + d xi`` and the history by ``h <- p x + q v``, where
``v = v_u + guidance (v_c - v_u)`` is the network's output after guidance. Tables are built in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import cos, isfinite, log, pi, sqrt

import numpy as np

from .errors import ConfigError
from .schedule import cogvideox_signal, flow_times, karras, leading, squared_cosine_signal, trailing
from .types import DoubleArray, FloatArray

GUIDANCE_SCHEDULES = ("constant", "dynamic_step", "dynamic_timestep")


@dataclass(frozen=True, slots=True)
class Step:
    """One row; ``time`` is what the network's time input gets.

    With ``clip`` = (limit, a0, b0): ``x0 = clamp(a0 x + b0 v, -limit, limit)``, then ``x <- a x0 + b v``.
    """

    time: float
    a: float
    b: float
    c: float = 0.0
    d: float = 0.0
    p: float = 0.0
    q: float = 0.0
    guidance: float = 1.0
    clip: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class SamplerSpec:
    """A sampler as the manifest states it; raises `ConfigError` for a kind, step count or schedule that does not exist.

    ``snr_shift`` belongs to the CogVideoX grids, ``time_shift`` to Euler flow, the sigmas to EDM, ``clip`` to DDIM epsilon.
    """

    kind: str
    steps: int
    guidance: float = 1.0
    guidance_schedule: str = "constant"
    guidance_exponent: float = 5.0
    train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    snr_shift: float = 1.0
    time_shift: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    final_sigma_zero: bool = True
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError("SAMPLER_UNKNOWN", f"wanted a sampler of {', '.join(KINDS)}; got {self.kind!r}")
        if not 1 <= self.steps <= self.train_steps:
            raise ConfigError("SAMPLER_STEPS", f"{self.kind}: wanted 1 to {self.train_steps} steps, got {self.steps}")
        if not isfinite(self.guidance):
            raise ConfigError("SAMPLER_GUIDANCE", f"{self.kind}: wanted a finite guidance weight, got {self.guidance}")
        if self.guidance_schedule not in GUIDANCE_SCHEDULES:
            raise ConfigError(
                "SAMPLER_GUIDANCE",
                f"wanted a guidance schedule of {', '.join(GUIDANCE_SCHEDULES)}; got {self.guidance_schedule!r}",
            )


@dataclass(frozen=True, slots=True)
class Table:
    """A sampler's rows; the state starts as noise times ``initial_scale``."""

    steps: tuple[Step, ...]
    initial_scale: float
    has_history: bool
    has_noise: bool


def table(spec: SamplerSpec) -> Table:
    """Return the rows of ``spec``."""
    steps = KINDS[spec.kind](spec)
    sigma = spec.sigma_max
    return Table(
        steps,
        sigma / (1.0 + sigma) if spec.kind == "edm_euler" else 1.0,
        any(step.c != 0.0 for step in steps),
        any(step.d != 0.0 for step in steps),
    )


def advance(
    step: Step, state: FloatArray, velocity: FloatArray, history: FloatArray | None, noise: FloatArray | None
) -> None:
    """Advance ``state`` and ``history`` in place by one row: the plain twin of the fused kernel.

    ``velocity`` has the state's leading size, or twice that with the unconditional half first.
    """
    v = velocity
    if velocity.shape[0] == 2 * state.shape[0]:
        empty, full = np.split(velocity, 2)
        v = empty + np.float32(step.guidance) * (full - empty)
    kept = np.float32(step.p) * state + np.float32(step.q) * v if history is not None else None
    base = state
    if step.clip is not None:
        limit, a0, b0 = (np.float32(number) for number in step.clip)
        base = np.clip(a0 * state + b0 * v, -limit, limit)
    moved = np.float32(step.a) * base + np.float32(step.b) * v
    if history is not None:
        moved += np.float32(step.c) * history
        history[...] = kept
    if noise is not None:
        moved += np.float32(step.d) * noise
    state[...] = moved


def guidance_at(spec: SamplerSpec, index: int, timestep: float) -> float:
    """Return the guidance weight of one step.

    ``dynamic_step`` is the original's form over the step index, ``dynamic_timestep`` diffusers' as coded, which puts
    the raw timestep where the index belongs.
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
        Step(float(now), 1.0, float(then - now), guidance=guidance_at(spec, i, 1000.0 * (1.0 - now)))
        for i, (now, then) in enumerate(pairwise(times))
    )


def _edm_euler(spec: SamplerSpec) -> tuple[Step, ...]:
    """Euler on u = x / (1 + sigma) over tau = sigma / (1 + sigma) (Cosmos-Predict2, Dream4manip)."""
    sigmas = karras(spec.sigma_min, spec.sigma_max, spec.rho, spec.steps)
    sigmas = np.append(sigmas, 0.0 if spec.final_sigma_zero else sigmas[-1])
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


KINDS: dict[str, Callable[[SamplerSpec], tuple[Step, ...]]] = {
    "ddim_v": _ddim_v,
    "dpmpp_2m": _dpmpp_2m,
    "dpmpp_2m_sde": _dpmpp_2m_sde,
    "euler_flow": _euler_flow,
    "edm_euler": _edm_euler,
    "ddim_epsilon": _ddim_epsilon,
}

PREDICTS = {
    "ddim_v": "v",
    "dpmpp_2m": "v",
    "dpmpp_2m_sde": "v",
    "euler_flow": "flow velocity",
    "edm_euler": "EDM velocity",
    "ddim_epsilon": "epsilon",
}
"""What the network has to predict for a sampler: only samplers of the same kind may stand in for one another."""


def instead(spec: SamplerSpec, kind: str) -> SamplerSpec:
    """Return ``spec`` with another sampler; raises `ConfigError` for one that wants another prediction."""
    if kind in KINDS and PREDICTS[kind] != PREDICTS[spec.kind]:
        fitting = [name for name, predicts in PREDICTS.items() if predicts == PREDICTS[spec.kind]]
        raise ConfigError(
            "SAMPLER_FAMILY", f"this network predicts {PREDICTS[spec.kind]}: wanted {', '.join(fitting)}; got {kind!r}"
        )
    return replace(spec, kind=kind)
