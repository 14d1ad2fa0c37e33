"""The preview: CogVideoX's v-prediction on low-resolution latents, text encoder and all or adapters only."""

from functools import partial

import torch
from torch import Tensor, nn

from dvgwm.models.denoisers import denoise_engine
from dvgwm.models.networks import Networks
from dvgwm.models.sizes import Preset
from dvgwm.models.text import embed
from dvgwm.runtime.sampler import Sampler

from .config import PreviewPart
from .lora import prepared
from .objectives import (
    channel_weight,
    clean_weight,
    diffuse,
    drop,
    moving_weight,
    preview_levels,
    preview_steps,
    squared_error,
    velocity,
)
from .sampling import guided, sample


class PreviewObjective(nn.Module):
    """The loss of a batch of low-resolution latents ``low``, B T C h w, and ``tokens``, B L (CogVideoX; DVG-WM, Sampler 7).

    ``empty`` are the tokens, int64 L, of no instruction. A text encoder of a full-size preset stays frozen. A preview that
    draws along a path learns it from the tool's true ``poses``, B N D: what is shown is then as sharp as what it is told.
    The waypoints, and the text encoder that was trained with them, stay as they are.
    """

    empty: Tensor
    loud: Tensor

    def __init__(self, preset: Preset, networks: Networks, part: PreviewPart, empty: Tensor) -> None:
        super().__init__()
        self.engine = denoise_engine(prepared(networks.preview, part), preset, False, networks)
        self.follows = networks.waypoints is not None
        self.borrowed: tuple[str, ...] = ("engine.codec.",)
        if self.follows:
            self.engine.waypoints.requires_grad_(False)
            self.borrowed += ("engine.waypoints.", "text.")
        self.clean = preset.preview.predicts == "clean"
        self.register_buffer("loud", channel_weight(networks.low_codec, part.loudness), persistent=False)
        self.text, self.part = networks.text, part
        self.text.requires_grad_(preset.text.tokenizer == "bytes" and not self.follows)
        self.levels = preview_levels(preset.sampling.preview_snr_shift)
        self.register_buffer("empty", empty, persistent=False)

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the velocity at random steps."""
        clean, count = batch["low"], len(batch["low"])
        steps = preview_steps(count, self.part.lean, generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        no_text, no_image = (drop(count, share, generator) for share in (self.part.drop_text, self.part.drop_image))
        alpha, sigma = self.levels(steps)
        text = embed(self.text, torch.where(no_text[:, None], self.empty, batch["tokens"]))
        image = torch.where(no_image.view(-1, 1, 1, 1, 1), 0.0, clean[:, :1])
        path = {"poses": batch["poses"]} if self.follows else {}
        predicted = self.engine(diffuse(clean, noise, alpha, sigma), steps.to(clean.dtype), text, image, **path)
        weight = clean_weight(sigma).view(-1, 1, 1, 1, 1) if self.clean else torch.ones(1, device=clean.device)
        weight = weight * self.loud
        if self.part.moving_weight:
            weight = weight * moving_weight(clean, self.part.moving_weight)
        return squared_error(predicted, velocity(clean, noise, alpha, sigma), weight)

    def imagine(
        self, rows: Sampler, noise: Tensor, tokens: Tensor, image: Tensor, poses: Tensor | None = None
    ) -> Tensor:
        """Return low-resolution latents, B T C h w, made from ``noise`` by the sampler's rows, along ``poses`` if given."""
        text, empty = embed(self.text, tokens), embed(self.text, self.empty[None]).expand(len(tokens), -1, -1)
        engine = self.engine if poses is None else partial(self.engine, poses=poses)
        return sample(rows, noise, guided(engine, text, empty, image))
