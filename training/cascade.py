"""The trained cascade in torch, many clips at once: preview, bridge, refine, decode, as the runtime runs them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dvgwm.models.networks import Networks
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec
from dvgwm.runtime.types import ImageArray

from .clips import encode, frames_of, scaled
from .codec import to_model
from .config import Run
from .joint import JointObjective
from .preview import PreviewObjective
from .sheet import to_frames


class Cascade:
    """Preview and refiner of ``networks``; ``tokens`` makes tokens, int64 L, of an instruction."""

    def __init__(self, run: Run, networks: Networks, tokens: Callable[[str], Tensor]) -> None:
        preset, sampling = run.preset, run.preset.sampling
        self.preset, self.networks, self.tokens = preset, networks, tokens
        self.preview = PreviewObjective(preset, networks, run.preview, tokens("")).eval()
        self.refiner = JointObjective(preset, networks, run.joint).eval()
        steps, guidance = sampling.preview_steps, sampling.preview_guidance
        self.rows = build_sampler(SamplerSpec("ddim_v", steps, guidance, snr_shift=sampling.preview_snr_shift))

    def frames(
        self, images: Sequence[ImageArray], instructions: Sequence[str], seed: int, poses: Tensor | None = None
    ) -> list[ImageArray]:
        """Return the imagined futures, uint8 T H W 3 each, of first frames H W 3 and their instructions.

        With ``poses``, B N D in [-1, 1], a preview that draws along a path is given that one.
        """
        _, high = self.latents(images, instructions, seed, poses)
        return to_frames(frames_of(self.networks.codec, high, self.preset.refiner_scaling))

    @torch.no_grad()
    def latents(
        self, images: Sequence[ImageArray], instructions: Sequence[str], seed: int, poses: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the preview's and the refiner's latents, B T C h w, of imagined futures."""
        generator = torch.Generator().manual_seed(seed)
        low, high = (self._first(images, which) for which in ("low", "high"))
        tokens = torch.stack([self.tokens(instruction) for instruction in instructions])
        noise = torch.randn(len(low), self.preset.latent_frames, *low.shape[2:], generator=generator)
        imagined = self.preview.imagine(self.rows, noise, tokens, low, poses)
        return imagined, self.refiner.refined({"low": imagined, "high": high, "tokens": tokens}, generator)

    def enlarged(self, low: Tensor) -> Tensor:
        """Return the preview's own frames, B 3 T H W in [-1, 1], at the high resolution."""
        frames = frames_of(self.networks.low_codec, low, self.preset.preview_scaling)
        flat = frames.transpose(1, 2).flatten(0, 1)
        larger = functional.interpolate(flat, self.preset.high, mode="bilinear", align_corners=False)
        return larger.unflatten(0, (len(low), -1)).transpose(1, 2)

    def _first(self, images: Sequence[ImageArray], which: str) -> Tensor:
        preset, low = self.preset, which == "low"
        codec, size = (self.networks.low_codec, preset.low) if low else (self.networks.codec, preset.high)
        scaling = preset.preview_scaling if low else preset.refiner_scaling
        return torch.cat([scaled(encode(codec, to_model(image[None], size)), scaling) for image in images])
