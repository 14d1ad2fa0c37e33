"""What each part is trained to predict: small pure functions, each with the paper's equation."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dvgwm.models.denoisers import preview_signal
from dvgwm.runtime.samplers.schedule import squared_cosine_signal

TRAIN_STEPS = 1000


class NoiseLevels(nn.Module):
    """Alpha and sigma, float32, of every training step: the signal's share, given in float64, and the noise's."""

    alpha: Tensor
    sigma: Tensor

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.register_buffer("alpha", alpha.float(), persistent=False)
        self.register_buffer("sigma", (1.0 - alpha**2).clamp_min(0.0).sqrt().float(), persistent=False)

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at ``steps``, int64."""
        return self.alpha[steps], self.sigma[steps]


def preview_levels(snr_shift: float) -> NoiseLevels:
    """Return the levels of CogVideoX's schedule with zero terminal SNR; strengths of degradation are steps at shift 1."""
    return NoiseLevels(preview_signal(snr_shift)[0])


def policy_levels(train_steps: int) -> NoiseLevels:
    """Return the levels of the squared-cosine schedule (Diffusion Policy)."""
    return NoiseLevels(torch.from_numpy(squared_cosine_signal(train_steps)))


def diffuse(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return ``alpha x_0 + sigma eps``; ``alpha`` and ``sigma`` hold one number per sample."""
    return _each(alpha, clean) * clean + _each(sigma, clean) * noise


def velocity(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return CogVideoX's v-target, ``alpha eps - sigma x_0`` (Salimans and Ho 2022), as diffusers' schedulers read it."""
    return _each(alpha, clean) * noise - _each(sigma, clean) * clean


def degrade_latents(latents: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return ``Deg_lat(z; s) = alpha_s z + beta_s eps`` with alpha_s^2 + beta_s^2 = 1 (DVG-WM, Eq. A.3 and A.4)."""
    return diffuse(latents, noise, alpha, sigma)


def flow_state(start: Tensor, end: Tensor, tau: Tensor) -> Tensor:
    """Return ``z_tau = (1 - tau) z~_lr + tau z_hr`` (DVG-WM, Eq. 2 and A.5); ``tau`` holds one number per sample."""
    at = _each(tau, start)
    return (1.0 - at) * start + at * end


def flow_velocity(start: Tensor, end: Tensor) -> Tensor:
    """Return ``u* = z_hr - z~_lr`` (DVG-WM, Eq. 3 and A.6), the same at every tau."""
    return end - start


def squared_error(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean squared error (DVG-WM, Eq. 4, 6 and A.7); ``weight`` broadcasts to it, its own mean divided out."""
    error = (predicted.float() - target.float()).square()
    return error.mean() if weight is None else (error * weight).mean() / weight.mean()


def moving_weight(clean: Tensor, extra: float, threshold: float = 0.1) -> Tensor:
    """Return the weight of every latent B T 1 h w of a clip B T C h w: 1, and ``extra`` more where something moves.

    It moves where the mean square over channels of the difference to the frame before is above ``threshold`` of the
    clip's variance. The first frame never does.
    """
    change = (clean[:, 1:] - clean[:, :-1]).square().mean(2, keepdim=True)
    moves = change > threshold * clean.flatten(1).var(1).view(-1, 1, 1, 1, 1)
    return 1.0 + extra * torch.cat([torch.zeros_like(moves[:, :1]), moves], 1)


def clean_weight(sigma: Tensor) -> Tensor:
    """Return the weight of a velocity's squared error that makes it ``min(1 / sigma^2, 5) |z^ - z|^2`` of the clean latents.

    A velocity of clean latents z^ is off by ``(z^ - z) / sigma``: unweighted, a nearly clean state would decide everything.
    """
    return (5.0 * sigma.square()).clamp_max(1.0)


def channel_weight(codec: Any, loudness: float) -> Tensor:
    """Return the weight, C 1 1, of every channel of a linear codec's error: its scale in pixels to the power ``loudness``.

    With 2 errors are those of pixels, with 0, and for a VAE, those of latents.
    """
    scale = codec.get_buffer("group_scale") if loudness else torch.ones(1)
    return (scale**loudness).view(-1, 1, 1)


def pose_error(predicted: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the mean smooth L1 error of the poses N D that are ``known`` (bool N); auxiliary, not in the paper."""
    error = functional.smooth_l1_loss(predicted.float(), target, beta=0.1, reduction="none").mean(1)
    return (error * known).sum() / known.sum().clamp_min(1)


def preview_steps(count: int, lean: float, generator: torch.Generator) -> Tensor:
    """Return ``count`` training steps 0..999, int64: uniform for ``lean`` 0 (CogVideoX), towards noise above.

    The density grows as t^lean: where the future is nearly certain, the first steps from pure noise decide.
    """
    drawn = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)
    return (drawn ** (1.0 / (1.0 + lean)) * TRAIN_STEPS).long().clamp(0, TRAIN_STEPS - 1)


def drop(count: int, share: float, generator: torch.Generator) -> Tensor:
    """Return which of ``count`` samples lose a condition, so that guidance has a branch without it; bool [count]."""
    return torch.rand(count, generator=generator, device=generator.device) < share


def _each(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).view(-1, *[1] * (like.ndim - 1))
