"""Runs the runtime's samplers on torch tensors: for what is looked at during training, and what is imagined in batches."""

from collections.abc import Callable

import torch
from torch import Tensor

from dvgwm.runtime.sampler import Sampler

Velocity = Callable[[Tensor, Tensor, float], Tensor]
"""State, time [1] and guidance weight to the velocity."""


@torch.no_grad()
def sample(sampler: Sampler, state: Tensor, velocity: Velocity) -> Tensor:
    """Return ``state`` after every row of ``sampler``, which draws no noise: the runtime's arithmetic in the state's dtype."""
    history = torch.zeros_like(state)
    for step in sampler.steps:
        v = velocity(state, torch.full((1,), step.time, device=state.device), step.guidance)
        base = state
        if step.clip is not None:
            limit, a0, b0 = step.clip
            base = (a0 * state + b0 * v).clamp(-limit, limit)
        moved = step.a * base + step.b * v + step.c * history
        history = step.p * state + step.q * v
        state = moved
    return state


def guided(engine: Callable[..., Tensor], text: Tensor, empty: Tensor, image: Tensor) -> Velocity:
    """Return a denoise engine's velocity under classifier-free guidance, ``v_u + g (v_c - v_u)``, of B samples at once."""

    def velocity(state: Tensor, time: Tensor, guidance: float) -> Tensor:
        if guidance == 1.0:
            return engine(state, time, text, image)
        both = engine(state.repeat(2, 1, 1, 1, 1), time, torch.cat([empty, text]), image.repeat(2, 1, 1, 1, 1))
        without, with_text = both.chunk(2)
        return without + guidance * (with_text - without)

    return velocity
