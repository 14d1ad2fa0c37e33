"""What the preview estimates of clips in one step: what refiner and joint phase are shown of them, as at run time."""

import torch
from torch import Tensor, nn

from dvgwm.models.denoisers import denoise_engine
from dvgwm.models.networks import Networks
from dvgwm.models.sizes import Preset

from .objectives import diffuse, drop, preview_levels


class PreviewEstimate(nn.Module):
    """The low latents of a batch with a ``share`` of its clips as the preview tells them from a noisy state, as soft as it is.

    The state is that of a step in ``told_at``. A preview that draws along a path is given the true one: what comes after it
    is to sharpen what is shown, not to move it. Nothing in it learns.
    """

    def __init__(self, preset: Preset, networks: Networks, share: float, told_at: tuple[int, int]) -> None:
        super().__init__()
        self.engine = denoise_engine(networks.preview, preset, False, networks).requires_grad_(False)
        self.share, self.told_at = share, told_at
        self.levels = preview_levels(preset.sampling.preview_snr_shift)

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor], text: Tensor, generator: torch.Generator) -> Tensor:
        """Return the latents, B T C h w, of a batch ``low``, and ``poses`` where there is a path; ``text`` is B L D."""
        low = batch["low"]
        chosen = drop(len(low), self.share, generator).nonzero().flatten()
        if not len(chosen):
            return low
        first, last = self.told_at
        steps = torch.randint(first, last + 1, (len(chosen),), generator=generator, device=low.device)
        noise = torch.randn(low[chosen].shape, generator=generator, device=low.device)
        alpha, sigma = self.levels(steps)
        state = diffuse(low[chosen], noise, alpha, sigma)
        path = {"poses": batch["poses"][chosen]} if "poses" in batch else {}
        velocity = self.engine(state, steps.to(low.dtype), text[chosen], low[chosen][:, :1], **path)
        # The clean latents that state and velocity are of.
        return low.index_copy(0, chosen, diffuse(state, -velocity, alpha, sigma))
