"""What tests of several objectives share: a fixed noise, a report to nobody, and a batch to fit."""

import torch


def silent(*_):
    pass


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def learns(objective, batch, steps=40, rate=3e-3):
    """Return the loss before and after fitting one batch under the same noise."""
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], rate)
    losses = []
    for _ in range(steps):
        loss = objective(batch, seeded())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]
