"""The runtime's sampler tables on torch tensors: what is looked at during training, and what evaluation runs in batches."""

from collections.abc import Callable

import torch
from torch import Tensor

from dvgwm.runtime.sampler import Table


@torch.no_grad()
def sample(table: Table, state: Tensor, velocity: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
    """Return ``state`` after every row of ``table``; ``velocity`` gets the state, the time [1] and the guidance weight.

    The same arithmetic as the runtime's, in the state's own dtype; rows that draw noise are not among these samplers.
    """
    history = torch.zeros_like(state)
    for step in table.steps:
        v = velocity(state, torch.full((1,), step.time, device=state.device), step.guidance)
        base = state
        if step.clip is not None:
            limit, a0, b0 = step.clip
            base = (a0 * state + b0 * v).clamp(-limit, limit)
        moved = step.a * base + step.b * v + step.c * history
        history = step.p * state + step.q * v
        state = moved
    return state
