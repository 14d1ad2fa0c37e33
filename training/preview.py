"""The preview: CogVideoX's v-prediction on low-resolution latents, text encoder and all or adapters only."""

import torch
from torch import Tensor, nn

from dvgwm.models.build import Networks
from dvgwm.models.engines import DenoiseEngine
from dvgwm.models.presets import Preset
from dvgwm.runtime.sampler import Table

from .clips import padded_bytes
from .config import PreviewPart
from .objectives import diffuse, drop, preview_signal, preview_steps, squared_error, velocity
from .sampling import sample


class PreviewObjective(nn.Module):
    """The loss of a batch of low-resolution latents ``low``, B T C h w, and ``tokens``, B L (CogVideoX; DVG-WM, Table 7)."""

    empty: Tensor

    def __init__(self, preset: Preset, networks: Networks, part: PreviewPart) -> None:
        super().__init__()
        grid = preset.grid(preset.low)
        self.engine = DenoiseEngine(networks.preview, preset.preview, grid, preset.latent_frames, flow=False)
        self.text, self.part = networks.text, part
        alpha, sigma = preview_signal(preset.sampling.preview_snr_shift)
        self.register_buffer("alpha", alpha.float(), persistent=False)
        self.register_buffer("sigma", sigma.float(), persistent=False)
        self.register_buffer("empty", padded_bytes("", preset.text.max_tokens), persistent=False)

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
        return squared_error(predicted, velocity(clean, noise, alpha, sigma))

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings, B L D, of tokens."""
        return self.text(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state

    def imagine(self, rows: Table, noise: Tensor, tokens: Tensor, image: Tensor) -> Tensor:
        """Return low-resolution latents, B T C h w, made from ``noise`` by the sampler's rows."""
        text, empty = self.embed(tokens), self.embed(self.empty[None]).expand(len(tokens), -1, -1)

        def velocity(state: Tensor, time: Tensor, guidance: float) -> Tensor:
            if guidance == 1.0:
                return self.engine(state, time, text, image)
            both = self.engine(state.repeat(2, 1, 1, 1, 1), time, torch.cat([empty, text]), image.repeat(2, 1, 1, 1, 1))
            without, with_text = both.chunk(2)
            return without + guidance * (with_text - without)

        return sample(rows, noise, velocity)


def fresh(transformer: nn.Module) -> None:
    """Start a transformer that is trained from nothing: every block and the output contribute zero at first (adaLN-zero)."""
    for name, parameter in transformer.named_parameters():
        if name.startswith("proj_out") or ".norm1.linear" in name or ".norm2.linear" in name:
            nn.init.zeros_(parameter)
