"""The preview: CogVideoX's v-prediction on low-resolution latents, text encoder and all or adapters only."""

from typing import Any

import torch
from torch import Tensor, nn

from dvgwm.models.build import Networks
from dvgwm.models.codec import GROUP
from dvgwm.models.denoisers import denoise_engine, preview_signal
from dvgwm.models.presets import Preset
from dvgwm.runtime.sampler import Table

from .config import PreviewPart
from .lora import prepared
from .objectives import (
    channel_weight,
    clean_weight,
    diffuse,
    drop,
    moving_weight,
    pose_error,
    preview_steps,
    squared_error,
    velocity,
)
from .sampling import guided, sample


class PreviewObjective(nn.Module):
    """The loss of a batch of low-resolution latents ``low``, B T C h w, and ``tokens``, B L (CogVideoX; DVG-WM, Table 7).

    ``empty`` are the tokens, int64 L, of no instruction. A text encoder of a full-size preset stays frozen. With a
    ``pose_weight`` the tool's ``poses``, B N D, of the N frames after the first are told from the hidden tokens too: a
    latent says little about where a small network has put the arm. Its head is not exported.
    """

    empty: Tensor
    alpha: Tensor
    sigma: Tensor
    loud: Tensor
    hidden: Tensor
    borrowed = ("engine.codec.",)

    def __init__(self, preset: Preset, networks: Networks, part: PreviewPart, empty: Tensor) -> None:
        super().__init__()
        self.engine = denoise_engine(prepared(networks.preview, part), preset, False, networks)
        if networks.keypoints is not None:
            networks.keypoints.requires_grad_(True)
        self.clean = preset.preview.predicts == "clean"
        self.register_buffer("loud", channel_weight(networks.low_codec, part.loudness), persistent=False)
        self.pose = None
        if part.pose_weight:
            height, width = preset.grid(preset.low)
            tokens = height * (width - 2 * preset.preview.margin) // preset.preview.patch**2
            hidden = preset.preview.heads * preset.preview.head_width
            self.pose = nn.Linear(tokens * hidden, GROUP * preset.policy.dof)
            blocks: Any = self.engine.transformer.transformer_blocks
            blocks[2 * len(blocks) // 3 - 1].register_forward_hook(self.keep_hidden)
        self.text, self.part = networks.text.requires_grad_(preset.text.tokenizer == "bytes"), part
        alpha, sigma = preview_signal(preset.sampling.preview_snr_shift)
        self.register_buffer("alpha", alpha.float(), persistent=False)
        self.register_buffer("sigma", sigma.float(), persistent=False)
        self.register_buffer("empty", empty, persistent=False)

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the velocity at random steps."""
        clean, count = batch["low"], len(batch["low"])
        steps = preview_steps(count, self.part.lean, generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        no_text, no_image = (drop(count, share, generator) for share in (self.part.drop_text, self.part.drop_image))
        alpha, sigma = self.alpha[steps], self.sigma[steps]
        text = self.embed(torch.where(no_text[:, None], self.empty, batch["tokens"]))
        image = torch.where(no_image.view(-1, 1, 1, 1, 1), 0.0, clean[:, :1])
        predicted = self.engine(diffuse(clean, noise, alpha, sigma), steps.to(clean.dtype), text, image)
        weight = clean_weight(sigma).view(-1, 1, 1, 1, 1) if self.clean else torch.ones(1, device=clean.device)
        weight = weight * self.loud
        if self.part.moving_weight:
            weight = weight * moving_weight(clean, self.part.moving_weight)
        loss = squared_error(predicted, velocity(clean, noise, alpha, sigma), weight)
        if self.pose is None:
            return loss
        poses = batch["poses"].flatten(0, 1)
        known = torch.ones(len(poses), device=poses.device)
        return loss + self.part.pose_weight * pose_error(self.poses(clean.shape[1]).flatten(0, 1), poses, known)

    def poses(self, latent_frames: int) -> Tensor:
        """Return the poses, B N D in [-1, 1], told from the last forward's hidden tokens, of the frames after the first."""
        assert self.pose is not None, "a pose weight"
        told = self.pose(self.hidden.unflatten(1, (latent_frames, -1))[:, 1:].flatten(2))
        return told.unflatten(2, (GROUP, -1)).flatten(1, 2)

    def keep_hidden(self, block: nn.Module, inputs: tuple[Any, ...], outputs: tuple[Tensor, Tensor]) -> None:
        """Keep the video tokens, B (T h w) D, that ``block`` hands on; a forward hook."""
        self.hidden = outputs[0]

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings, B L D, of tokens."""
        return self.text(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state

    def imagine(self, rows: Table, noise: Tensor, tokens: Tensor, image: Tensor) -> Tensor:
        """Return low-resolution latents, B T C h w, made from ``noise`` by the sampler's rows."""
        text, empty = self.embed(tokens), self.embed(self.empty[None]).expand(len(tokens), -1, -1)
        return sample(rows, noise, guided(self.engine, text, empty, image))
