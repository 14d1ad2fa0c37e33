"""The decoder: all frames of a plan, the exact early exit, and diffusers' own, eager and compiled."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from dvgwm.models.engines import DecodeEngine
from dvgwm.models.fused_vae import FusedDecoder
from dvgwm.models.sizes import Preset, VaeSize
from dvgwm.models.vae import CHUNKS, build_vae

from .measure import Bench, first_call, psnr, ratio, timed, watched_card, working_bytes
from .size import size_of

TITLE = "decode"
SEARCHED = ", cuDNN's search"
"""Ends the variants whose convolutions are tried first, once each. The product does not try them: another may be the fastest
in another process, and the bits of a plan change with it."""
LOOKED_AT = 8
"""Frames of every variant that are compared."""


class Decoders:
    """One VAE in bf16 and its decoders of latents 1 T C h w to uint8 frames."""

    def __init__(self, size: Preset, device: str) -> None:
        assert isinstance(size.codec, VaeSize)
        torch.manual_seed(0)
        self.size = size
        with torch.device(device):
            self.vae = nn.Module.to(build_vae(size.codec).eval().requires_grad_(False), torch.bfloat16)
            self.latents = torch.randn(1, size.latent_frames, size.codec.channels, *size.grid(size.high))
        fused = FusedDecoder(
            deepcopy(self.vae)
        )  # which lays its weights out anew: the other's are to stay as they were
        names = fused.cache_names(size.codec.channels, size.grid(size.high))
        self.first, self.following = (
            DecodeEngine(fused, size.refiner_scaling, names, is_first, dtype=torch.bfloat16).to(device)
            for is_first in (True, False)
        )

    def works(self) -> dict[str, Callable[[], Tensor]]:
        """Return every variant; compiling is in place, so the compiled ones come last."""
        needed = 1 + (self.size.frames - 1) // 8  # for the first half of a plan's actions
        needed += (needed - CHUNKS[0]) % CHUNKS[1]
        return {
            "diffusers eager": self.theirs,
            "bfloat16": lambda: self.ours(self.latents),
            "bfloat16, early exit": lambda: self.ours(self.latents[:, :needed]),
            f"bfloat16{SEARCHED}": lambda: self.ours(self.latents),
            "diffusers compile": self.compiled,
            f"diffusers compile{SEARCHED}": self.compiled,
        }

    @torch.inference_mode()
    def theirs(self) -> Tensor:
        """Return diffusers' frames."""
        raw = (self.latents * self.size.refiner_scaling.std[0]).transpose(1, 2).bfloat16()
        frames = self.vae.decode(raw).sample.float() * 0.5 + 0.5
        return (frames.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1)

    def compiled(self) -> Tensor:
        """Return the same by a compiled decoder."""
        if self.vae.decoder._compiled_call_impl is None:
            self.vae.decoder.compile(dynamic=False)
        return self.theirs()

    @torch.inference_mode()
    def ours(self, latents: Tensor) -> Tensor:
        """Return our frames, chunk by chunk."""
        head, step = CHUNKS
        frames, *cache, _ = self.first(latents[:, :head])
        made = [frames]
        for at in range(head, latents.shape[1], step):
            frames, *cache, _ = self.following(latents[:, at : at + step], *cache)
            made.append(frames)
        return torch.cat(made, 1)


def run_decode(bench: Bench) -> None:
    """The decoder: all 49 frames, the exact early exit for half of a plan's actions, and theirs compiled."""
    decoders, theirs = None, "diffusers eager"
    shown: dict[str, Tensor] = {}
    # Theirs takes minutes on a CPU.
    baselines = () if bench.small else ("diffusers compile", f"diffusers compile{SEARCHED}")
    for name in bench.wanted(TITLE, (theirs, "bfloat16", "bfloat16, early exit", f"bfloat16{SEARCHED}", *baselines)):
        with bench.trying(TITLE, name):
            torch.backends.cudnn.benchmark = name.endswith(SEARCHED)
            decoders = decoders or Decoders(size_of(bench), bench.device)
            works = decoders.works()
            start = first_call(works[name], bench.device)
            # Of an earlier process nothing is left but its rows; compiled, theirs is not eager any more.
            others = ["bfloat16"] if "early exit" in name else []
            if name != theirs and "compile" not in name and not bench.refused(TITLE, theirs):
                others.append(theirs)
            for other in (name, *others):
                if other not in shown:
                    shown[other] = works[other]()[:, :LOOKED_AT].clone()
            memory = working_bytes(works[name], bench.device)
            with watched_card(bench.device) as card:
                found = timed(works[name], bench.rounds, bench.device)
            eager = found["median_s"] if name == theirs else bench.median(TITLE, theirs)
            bench.row(
                TITLE, variant=name, **found, **card, first_call_s=start, working_bytes=memory,
                against_eager=ratio(eager, found["median_s"]), **likeness(name, shown), loss="bounded",
            )  # fmt: skip


def likeness(name: str, shown: dict[str, Tensor]) -> dict[str, Any]:
    """Return how far a variant's first frames are from diffusers', and whether an early exit's are the whole decode's."""
    figures: dict[str, Any] = {}
    if "diffusers eager" in shown and name != "diffusers eager":
        figures["psnr_db"] = psnr(shown[name], shown["diffusers eager"])
    if "early exit" in name:
        figures["early_exit_exact"] = bool(torch.equal(shown[name], shown["bfloat16"]))
    return figures
