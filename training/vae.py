"""The convolutional VAE of full-size presets: reconstruction and a whisper of KL (Rombach et al. 2022; CogVideoX)."""

from typing import Any

import torch
from torch import Tensor, nn

from dvgwm.models.networks import Networks

KL_WEIGHT = 1e-6


class VaeObjective(nn.Module):
    """The loss of a batch of ``frames``, uint8 B T H W 3, T = 1 + 8 n: mean absolute error, and KL to the unit normal."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.codec: Any = networks.codec.requires_grad_(True)

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the loss of one sample of the posterior."""
        frames = batch["frames"].permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0
        posterior = self.codec.encode(frames).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=frames.device)
        made = self.codec.decode(posterior.mean + posterior.std * noise).sample
        return (made - frames).abs().mean() + KL_WEIGHT * posterior.kl().mean()
