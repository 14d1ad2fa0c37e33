"""The refiner: flow matching from degraded latents to high-resolution ones (DVG-WM, Eq. 2-4 and A.1-A.7)."""

import torch
from torch import Tensor, nn

from dvgwm.models.denoisers import denoise_engine
from dvgwm.models.networks import Networks
from dvgwm.models.sizes import Preset
from dvgwm.models.text import embed

from .config import RefinerPart
from .degradation import raised
from .estimate import PreviewEstimate
from .lora import prepared
from .objectives import (
    channel_weight,
    clean_weight,
    degrade_latents,
    drop,
    flow_state,
    flow_velocity,
    preview_levels,
    squared_error,
)


class RefinerObjective(nn.Module):
    """The loss of a batch of latents ``low``, ``high``, with a ``pixel_share`` ``degraded``, B T C h w, and ``tokens``, B L.

    Of a preview that draws along a path also the tool's ``poses``, B N D.
    """

    loud: Tensor
    borrowed = ("estimate.", "text.")

    def __init__(self, preset: Preset, networks: Networks, part: RefinerPart, empty: Tensor) -> None:
        super().__init__()
        assert networks.refiner is not None, "a system with two stages"
        self.engine = denoise_engine(prepared(networks.refiner, part), preset, True, networks)
        self.clean = preset.refiner is not None and preset.refiner.predicts == "clean"
        self.text, self.preset, self.part = networks.text.requires_grad_(False), preset, part
        self.register_buffer("loud", channel_weight(networks.codec, part.loudness), persistent=False)
        self.estimate = PreviewEstimate(preset, networks, part.generated, part.told_at) if part.generated else None
        self.levels = preview_levels(1.0)
        self.register_buffer("empty", empty, persistent=False)

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the flow's velocity at random times."""
        high, count, device = batch["high"], len(batch["high"]), batch["high"].device
        tau = torch.rand(count, generator=generator, device=device)
        no_text = drop(count, self.part.drop_text, generator)
        with torch.no_grad():
            tokens = torch.where(no_text[:, None], self.get_buffer("empty"), batch["tokens"])
            text = embed(self.text, tokens)
            if self.estimate is not None:
                batch = batch | {"low": self.estimate(batch, text, generator)}
        start = self.start(batch, generator)
        conditions = (batch["low"],) if self.preset.refiner_sees_preview else ()
        predicted = self.engine(flow_state(start, high, tau), tau, text, high[:, :1], *conditions)
        weight = clean_weight(1.0 - tau).view(-1, 1, 1, 1, 1) if self.clean else torch.ones(1, device=device)
        return squared_error(predicted, flow_velocity(start, high), weight * self.loud)

    def start(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return where the flow begins: pixels or latents degraded, then noise of a strength drawn from its range."""
        count, device = len(batch["low"]), batch["low"].device
        grid = self.preset.grid(self.preset.high)
        up = raised(batch["low"], grid, self.preset.preview_scaling, self.preset.refiner_scaling)
        if self.part.pixel_share:
            pixels = drop(count, self.part.pixel_share, generator).view(-1, 1, 1, 1, 1)
            up = torch.where(pixels, batch["degraded"], up)
        low, high = self.part.strength
        steps = torch.randint(low, high + 1, (count,), generator=generator, device=device)
        noise = torch.randn(up.shape, generator=generator, device=device)
        return degrade_latents(up, noise, *self.levels(steps))
