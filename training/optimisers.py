"""AdamW, or Muon for a transformer's matrices and AdamW for the rest; and how their rate goes over a run."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dvgwm.runtime.errors import ConfigError

from .config import Part

KINDS = ("adamw", "muon")


def optimisers(part: Part, model: nn.Module) -> list[torch.optim.Optimizer]:
    """Return what trains the parameters of ``model`` that want gradients; raises `ConfigError` for an unknown kind."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if part.optimiser not in KINDS:
        raise ConfigError("OPTIMISER", f"wanted an optimiser of {', '.join(KINDS)}; got {part.optimiser!r}")
    if part.optimiser == "adamw":
        return [_adamw(part, [parameter for _, parameter in named])]
    # Jordan et al. 2024: orthogonalised updates suit the matrices between hidden layers.
    hidden = [parameter for name, parameter in named if parameter.ndim == 2 and "block" in name and "embed" not in name]
    ids = {id(parameter) for parameter in hidden}
    muon = torch.optim.Muon(
        hidden, part.learning_rate, weight_decay=part.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, _adamw(part, [parameter for _, parameter in named if id(parameter) not in ids])]


def rate(part: Part, step: int, share: float) -> float:
    """Return the learning rate's factor before ``step`` + 1, ``share`` of the run being over.

    It rises over the warm-up's steps, stays, and falls to zero over the last ``decay`` of the run.
    """
    falling = (1.0 - share) / part.decay if part.decay else 1.0
    return max(0.0, min(1.0, (step + 1) / max(1, part.warmup), falling))


def _adamw(part: Part, parameters: Sequence[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, part.learning_rate, part.betas, weight_decay=part.weight_decay)
