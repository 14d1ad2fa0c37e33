"""The refiner: flow matching from degraded latents to high-resolution ones (DVG-WM, Eq. 2-4 and A.1-A.7)."""

import torch
from torch import Tensor, nn

from dvgwm.models.build import Networks
from dvgwm.models.engines import denoise_engine, preview_signal
from dvgwm.models.presets import Preset

from .config import RefinerPart
from .degradation import raised
from .lora import prepared
from .objectives import clean_weight, degrade_latents, drop, flow_state, flow_velocity, squared_error


class RefinerObjective(nn.Module):
    """The loss of a batch of latents ``low``, ``high`` and ``degraded``, B T C h w, and ``text``, B L D.

    ``low`` are the preview's own where inference is to be matched, or the true ones.
    """

    alpha: Tensor
    sigma: Tensor

    def __init__(self, preset: Preset, networks: Networks, part: RefinerPart, empty: Tensor) -> None:
        super().__init__()
        assert networks.refiner is not None, "a system with two stages"
        self.engine = denoise_engine(prepared(networks.refiner, part), preset, flow=True)
        self.clean = preset.refiner is not None and preset.refiner.predicts == "clean"
        self.text, self.preset, self.part = networks.text.requires_grad_(False), preset, part
        alpha, sigma = preview_signal(1.0)  # strengths are steps of the shift-1 grid
        self.register_buffer("alpha", alpha.float(), persistent=False)
        self.register_buffer("sigma", sigma.float(), persistent=False)
        self.register_buffer("empty", empty, persistent=False)

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the flow's velocity at random times."""
        high, count, device = batch["high"], len(batch["high"]), batch["high"].device
        start = self.start(batch, generator)
        tau = torch.rand(count, generator=generator, device=device)
        no_text = drop(count, self.part.drop_text, generator)
        with torch.no_grad():
            tokens = torch.where(no_text[:, None], self.get_buffer("empty"), batch["tokens"])
            text = self.text(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        conditions = (batch["low"],) if self.preset.refiner_sees_preview else ()
        predicted = self.engine(flow_state(start, high, tau), tau, text, high[:, :1], *conditions)
        weight = clean_weight(1.0 - tau).view(-1, 1, 1, 1, 1) if self.clean else None
        return squared_error(predicted, flow_velocity(start, high), weight)

    def start(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return where the flow begins: pixels or latents degraded, then noise of a strength drawn from its range."""
        count, device = len(batch["low"]), batch["low"].device
        grid = self.preset.grid(self.preset.high)
        up = raised(batch["low"], grid, self.preset.preview_scaling, self.preset.refiner_scaling)
        pixels = drop(count, self.part.pixel_share, generator).view(-1, 1, 1, 1, 1)
        low, high = self.part.strength
        steps = torch.randint(low, high + 1, (count,), generator=generator, device=device)
        noise = torch.randn(up.shape, generator=generator, device=device)
        return degrade_latents(torch.where(pixels, batch["degraded"], up), noise, self.alpha[steps], self.sigma[steps])
