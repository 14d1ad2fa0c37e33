"""A sampler's settings as plain data: what the manifest states, checked before any row is built."""

from dataclasses import dataclass, fields, replace

from ..errors import ConfigError

PREDICTS = {
    "ddim_v": "v",
    "dpmpp_2m": "v",
    "dpmpp_2m_sde": "v",
    "euler_flow": "flow velocity",
    "edm_euler": "EDM velocity",
    "ddim_epsilon": "epsilon",
}
"""What the network has to predict for a sampler: only samplers of the same kind may stand in for one another."""

MOST_STEPS = 10_000
"""Ten times those that any network here is trained with; rows are made for them all before the first is run."""
LARGEST_GUIDANCE = 1e4

GUIDANCE_SCHEDULES = ("constant", "dynamic_step", "dynamic_timestep")


@dataclass(frozen=True, slots=True)
class SamplerSpec:
    """A sampler as the manifest states it; raises `ConfigError` for what does not exist or is out of range.

    ``train_steps``, the betas and ``snr_shift`` belong to the CogVideoX grids (the policy's grid takes ``train_steps``
    alone), ``time_shift`` to Euler flow, ``clip`` to DDIM epsilon, the sigmas and ``rho`` to EDM. There
    ``trained_intervals`` T visits the levels sigma_T .. sigma_1 of a distilled network (Dream4manip: 8) and 0 the Karras
    grid, and ``final_sigma_zero`` ends at the clean estimate, not at sigma_min.
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
    trained_intervals: int = 0
    final_sigma_zero: bool = True
    clip: float = 1.0

    def __post_init__(self) -> None:
        _check_types(self)
        if self.kind not in PREDICTS:
            raise ConfigError("SAMPLER_UNKNOWN", f"wanted a sampler of {', '.join(PREDICTS)}; got {self.kind!r}")
        _check_steps(self)
        _check_guidance(self)
        _check_ranges(self)


def instead(spec: SamplerSpec, kind: str) -> SamplerSpec:
    """Return ``spec`` with another sampler; raises `ConfigError` for one that wants another prediction."""
    if kind in PREDICTS and PREDICTS[kind] != PREDICTS[spec.kind]:
        fitting = [name for name, predicts in PREDICTS.items() if predicts == PREDICTS[spec.kind]]
        raise ConfigError(
            "SAMPLER_FAMILY", f"this network predicts {PREDICTS[spec.kind]}: wanted {', '.join(fitting)}; got {kind!r}"
        )
    return replace(spec, kind=kind)


def _check_types(spec: SamplerSpec) -> None:
    for field in fields(spec):
        value, expected = getattr(spec, field.name), field.type
        # An int is a good float, but True is no number.
        if type(value) is not expected and not (expected is float and type(value) is int):
            name = getattr(expected, "__name__", expected)
            raise ConfigError("SAMPLER_TYPE", f"sampler: wanted {field.name} as {name}, got {value!r}")


def _check_steps(spec: SamplerSpec) -> None:
    if not 2 <= spec.train_steps <= MOST_STEPS or not 0 <= spec.trained_intervals <= MOST_STEPS:
        raise ConfigError(
            "SAMPLER_STEPS",
            f"{spec.kind}: wanted 2 to {MOST_STEPS} train_steps and 0 to {MOST_STEPS} trained_intervals, "
            f"got {spec.train_steps} and {spec.trained_intervals}",
        )
    trained = spec.kind == "edm_euler" and spec.trained_intervals > 0
    most = spec.trained_intervals if trained else spec.train_steps
    if not 1 <= spec.steps <= most:
        raise ConfigError("SAMPLER_STEPS", f"{spec.kind}: wanted 1 to {most} steps, got {spec.steps}")


def _check_guidance(spec: SamplerSpec) -> None:
    if not abs(spec.guidance) <= LARGEST_GUIDANCE:  # written so that NaN is refused
        raise ConfigError(
            "SAMPLER_GUIDANCE",
            f"{spec.kind}: wanted a finite guidance weight, at most {LARGEST_GUIDANCE:g} either way, got {spec.guidance}",
        )
    schedules = GUIDANCE_SCHEDULES if PREDICTS[spec.kind] in ("v", "epsilon") else GUIDANCE_SCHEDULES[:2]
    if spec.guidance_schedule not in schedules:
        raise ConfigError(
            "SAMPLER_GUIDANCE",
            f"{spec.kind}: wanted a guidance schedule of {', '.join(schedules)}; got {spec.guidance_schedule!r}",
        )
    if spec.guidance_schedule == "dynamic_timestep" and not float(spec.guidance_exponent).is_integer():
        raise ConfigError(
            "SAMPLER_GUIDANCE",
            f"dynamic_timestep raises negative numbers: wanted a whole exponent, got {spec.guidance_exponent}",
        )


def _check_ranges(spec: SamplerSpec) -> None:
    ranges = {
        "guidance_exponent": (0.0, spec.guidance_exponent, 1e3),
        "beta_start": (0.0, spec.beta_start, 1.0),
        "beta_end": (0.0, spec.beta_end, 1.0),
        "snr_shift": (0.0, spec.snr_shift, 1e6),
        "time_shift": (0.0, spec.time_shift, 1e6),
        "sigma_min": (0.0, spec.sigma_min, spec.sigma_max),
        "sigma_max": (0.0, spec.sigma_max, 1e6),
        "rho": (0.0, spec.rho, 1e3),
        "clip": (0.0, spec.clip, 1e6),
    }
    for name, (low, value, high) in ranges.items():
        if not low < value < high:
            raise ConfigError("SAMPLER_RANGE", f"{spec.kind}: wanted {low:g} < {name} < {high:g}, got {value:g}")
