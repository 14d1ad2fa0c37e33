"""The joint phase: the policy's loss alone trains policy and refiner, through the frames that the refiner makes (DVG-WM)."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dvgwm.models.denoisers import denoise_engine, preview_signal
from dvgwm.models.networks import Networks
from dvgwm.models.sizes import Preset
from dvgwm.models.text import embed
from dvgwm.runtime.chunks import Chunking

from .clips import decode, unscaled
from .config import JointPart
from .degradation import raised
from .estimate import PreviewEstimate
from .lora import prepared
from .objectives import degrade_latents, policy_levels
from .policy import noise_error


class JointObjective(nn.Module):
    """The policy's loss on refined frames, of a batch ``low`` (B T C h w), ``high``, ``tokens`` and ``actions``.

    Gradients go from the policy's loss (Eq. 6) through frame encoder, decoder and the last ``refine_steps`` of the
    refiner's Euler steps; the steps before them, the preview and the text encoder get none. How deep the paper goes it
    does not say.
    """

    borrowed = ("codec.", "text.", "estimate.")

    def __init__(self, preset: Preset, networks: Networks, part: JointPart) -> None:
        super().__init__()
        assert networks.refiner is not None, "a system with two stages"
        self.refiner = denoise_engine(prepared(networks.refiner, part), preset, True, networks)
        self.codec, self.text = networks.codec.requires_grad_(False), networks.text.requires_grad_(False)
        self.estimate = PreviewEstimate(preset, networks, part.generated, part.told_at) if part.generated else None
        self.encoder = networks.frame_encoder.requires_grad_(True)
        self.unet = networks.policy.requires_grad_(True)
        self.preset, self.part = preset, part
        policy = preset.policy
        self.chunking = Chunking(preset.frames, policy.stride, policy.offsets)
        self.levels = policy_levels(preset.sampling.policy_train_steps)

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the policy's loss on what the refiner makes of ``low``, or of what the preview tells of it."""
        if self.estimate is not None:
            with torch.no_grad():
                batch = batch | {"low": self.estimate(batch, embed(self.text, batch["tokens"]), generator)}
        frames = self.frames(batch, generator)
        features = self.encoder.features(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        shown = features[:, self.chunking.shown_index].flatten(2).flatten(0, 1)
        return noise_error(self.unet, shown, batch["actions"].flatten(0, 1), self.levels, self.part.draws, generator)

    def frames(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the refined frames that the policy sees, B N 3 H W in [0, 1]."""
        latents = self.refined(batch, generator)
        video = decode(self.codec, unscaled(latents, self.preset.refiner_scaling))
        seen = video[:, :, torch.from_numpy(self.chunking.shown)].transpose(1, 2)
        return (seen * 0.5 + 0.5).clamp(0.0, 1.0)

    def refined(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return high-resolution latents B T C H W by Euler steps from ``low`` (DVG-WM, Eq. 5 and A.8)."""
        preset, low = self.preset, batch["low"]
        count, steps = len(low), preset.sampling.refine_steps
        with torch.no_grad():
            text = embed(self.text, batch["tokens"])
            up = raised(low, preset.grid(preset.high), preset.preview_scaling, preset.refiner_scaling)
            noise = torch.randn(up.shape, generator=generator, device=up.device)
            alpha, sigma = (part.to(up)[preset.sampling.bridge_step].expand(count) for part in preview_signal(1.0))
            state = degrade_latents(up, noise, alpha, sigma)
        conditions = (low,) if preset.refiner_sees_preview else ()
        for step in range(steps):
            tau = torch.full((count,), step / steps, device=low.device)
            inputs = (state, tau, text, batch["high"][:, :1], *conditions)
            if step < steps - self.part.refine_steps:
                with torch.no_grad():
                    velocity = self.refiner(*inputs)
            elif self.part.gradient_checkpointing:
                velocity = checkpoint(self.refiner, *inputs, use_reentrant=False)
            else:
                velocity = self.refiner(*inputs)
            state = state + velocity / steps
        return state
