"""Runs the runtime's samplers on torch tensors: for what is looked at during training, and what is imagined in batches."""

from collections.abc import Callable

import torch
from torch import Tensor

from dvgwm.kernels.affine_step import plain_affine_step
from dvgwm.runtime.sampler import Sampler

Velocity = Callable[[Tensor, Tensor, float], Tensor]
"""State, time [1] and guidance weight to the velocity, under guidance the unconditional half first."""


@torch.no_grad()
def sample(sampler: Sampler, noise: Tensor, velocity: Velocity) -> Tensor:
    """Return ``noise`` after every row of ``sampler``, which draws none itself."""
    state, history = noise.clone(), torch.zeros_like(noise)
    for step in sampler.steps:
        time = torch.full((1,), step.time, device=state.device)
        plain_affine_step(state, velocity(state, time, step.guidance), history, None, step.coefficients())
    return state


def guided(engine: Callable[..., Tensor], text: Tensor, empty: Tensor, image: Tensor) -> Velocity:
    """Return a denoise engine's velocity of B samples at once, without and with ``text`` where guidance weighs them."""

    def velocity(state: Tensor, time: Tensor, guidance: float) -> Tensor:
        if guidance == 1.0:
            return engine(state, time, text, image)
        return engine(state.repeat(2, 1, 1, 1, 1), time, torch.cat([empty, text]), image.repeat(2, 1, 1, 1, 1))

    return velocity
