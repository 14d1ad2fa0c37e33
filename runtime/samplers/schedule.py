"""Noise grids: which signal and noise levels a sampler visits."""

import numpy as np

from ..errors import ConfigError
from ..types import DoubleArray


def cogvideox_signal(train_steps: int, beta_start: float, beta_end: float, snr_shift: float) -> DoubleArray:
    """Return alpha = sqrt(abar) per training step: scaled-linear betas, SNR shift, zero terminal SNR (papers: CogVideoX)."""
    betas = np.linspace(beta_start**0.5, beta_end**0.5, train_steps) ** 2
    abar = np.cumprod(1.0 - betas)
    abar = abar / (snr_shift + (1.0 - snr_shift) * abar)
    alpha = np.sqrt(abar)
    first, last = alpha[0], alpha[-1]
    return np.asarray((alpha - last) * first / (first - last))


def squared_cosine_signal(train_steps: int) -> DoubleArray:
    """Return alpha per training step of the squared-cosine schedule with betas capped at .999 (Diffusion Policy)."""
    at = np.arange(train_steps + 1) / train_steps
    bar = np.cos((at + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.asarray(np.sqrt(np.cumprod(1.0 - np.minimum(1.0 - bar[1:] / bar[:-1], 0.999))))


def signal_and_noise(step: int, snr_shift: float = 1.0) -> tuple[float, float]:
    """Return (alpha, sigma) of CogVideoX's grid at a training step 0..999: what the bridge's strength means.

    Raises `ConfigError` for a step outside the grid. Source: DVG-WM, Eq A.3-A.4.
    """
    signal = cogvideox_signal(1000, 0.00085, 0.012, snr_shift)
    if not 0 <= step < len(signal):
        raise ConfigError("BRIDGE_STEP", f"wanted a training step of 0 to {len(signal) - 1} for the bridge, got {step}")
    alpha = float(signal[step])
    return alpha, float(np.sqrt(1.0 - alpha**2))


def trailing(train_steps: int, steps: int) -> DoubleArray:
    """Return evenly spaced training steps that begin at the last one: 999, 979, ... for 50 of 1000."""
    return np.asarray(np.round(np.arange(train_steps, 0, -train_steps / steps)) - 1)[:steps]


def leading(train_steps: int, steps: int) -> DoubleArray:
    """Return evenly spaced training steps that end at step 0: 90, 84, ... 0 for 16 of 100."""
    return np.asarray(np.arange(steps)[::-1] * (train_steps // steps), np.float64)


def karras(sigma_min: float, sigma_max: float, rho: float, steps: int) -> DoubleArray:
    """Return noise levels from ``sigma_max`` to exactly ``sigma_min`` (Karras et al. 2022, Eq. 5); one alone is the max."""
    ramp = np.linspace(0.0, 1.0, steps)
    ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    levels = np.asarray((ends[0] + ramp * (ends[1] - ends[0])) ** rho)
    levels[-1] = sigma_min  # a power of a root is off by a rounding; a repeated last level has to be the same number
    levels[0] = sigma_max
    return levels


def edm_levels(sigma_min: float, sigma_max: float, rho: float, steps: int, intervals: int) -> DoubleArray:
    """Return the noise levels at which an EDM sampler calls its network, largest first.

    With ``intervals`` 0 they are the Karras grid of ``steps`` levels, its last one ``sigma_min``. With T intervals they
    are ``steps`` of the levels sigma_T .. sigma_1 that a distilled network was trained on (Dream4manip: T = 8).
    """
    if intervals == 0:
        return karras(sigma_min, sigma_max, rho, steps)
    return np.asarray(karras(sigma_min, sigma_max, rho, intervals + 1)[np.arange(steps) * intervals // steps])


def flow_times(steps: int, shift: float) -> DoubleArray:
    """Return 0 = tau_0 < ... < tau_K = 1, uniform for ``shift`` 1 (DVG-WM, Eq. 5), later ones sparser above (FlashVideo)."""
    noise = 1.0 - np.arange(steps + 1) / steps
    return np.asarray(1.0 - shift * noise / (1.0 + (shift - 1.0) * noise))
