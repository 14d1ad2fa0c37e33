"""The optimisers: AdamW, or Muon for a transformer's matrices and AdamW for the rest; and how their rate goes over a run."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dvgwm.runtime.errors import ConfigError

from .config import PartSettings

KINDS = ("adamw", "muon")


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Jordan et al. 2024, as in `torch.optim.Muon`."""


class Muon(torch.optim.Muon):
    """torch's Muon, matrices of one shape orthogonalised together and in ``dtype``.

    torch's own computes in bfloat16; a CPU without it emulates it: 18 s a step for the
    matrices of `a1_tiny`'s preview, against .4.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], part: PartSettings, dtype: torch.dtype) -> None:
        super().__init__(
            parameters,
            part.learning_rate,
            weight_decay=part.weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        )
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter with a gradient."""
        assert closure is None, "the loop has its own"
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momentum = state["momentum_buffer"].lerp_(parameter.grad, 1.0 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"])
                short, long = sorted(parameter.shape)
                alike.setdefault((short, long), []).append((parameter, update))
            for (_, long), pairs in alike.items():
                lying = [update.T if update.shape[0] > update.shape[1] else update for _, update in pairs]
                updates = orthogonal(torch.stack(lying).to(self.dtype))
                rate = group["lr"] * 0.2 * math.sqrt(long)
                for (parameter, update), turned in zip(pairs, updates, strict=True):
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    turned = turned.T if update.shape[0] > update.shape[1] else turned
                    parameter.add_(turned.to(parameter.dtype), alpha=-rate)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return matrices N A B, A <= B, with their singular values about 1, by Newton-Schulz iterations."""
    a, b, c = NEWTON_SCHULZ
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def optimisers(part: PartSettings, model: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
    """Return the optimisers of all parameters of ``model`` with gradients; Muon's own arithmetic is in ``dtype``.

    Raises `ConfigError` for an unknown kind.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if part.optimiser not in KINDS:
        raise ConfigError("OPTIMISER", f"wanted an optimiser of {', '.join(KINDS)}; got {part.optimiser!r}")
    if part.optimiser == "adamw":
        return [_adamw(part, [parameter for _, parameter in named])]
    # Jordan et al. 2024: orthogonalised updates suit the matrices between hidden layers.
    hidden = [parameter for name, parameter in named if parameter.ndim == 2 and "block" in name and "embed" not in name]
    ids = {id(parameter) for parameter in hidden}
    muon = Muon(hidden, part, dtype)
    return [muon, _adamw(part, [parameter for _, parameter in named if id(parameter) not in ids])]


def rate(part: PartSettings, step: int, share: float) -> float:
    """Return the learning rate's factor before ``step`` + 1, ``share`` of the run being over.

    It rises over the warm-up's steps, stays, and falls to zero over the last ``decay`` of the run.
    """
    falling = (1.0 - share) / part.decay if part.decay else 1.0
    return max(0.0, min(1.0, (step + 1) / max(1, part.warmup), falling))


def _adamw(part: PartSettings, parameters: Sequence[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, part.learning_rate, part.betas, weight_decay=part.weight_decay)
