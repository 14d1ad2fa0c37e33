"""The denoisers as engines see them: state and condition to a velocity, whatever form the network's own output has.

Latents are B T C H W float32. G is the number of guidance branches, unconditional first.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dvgwm.runtime.samplers.schedule import cogvideox_signal

from .codec import LinearCodec
from .dit import rotary_positions
from .networks import Networks
from .sizes import DiT, Preset, Scaling
from .waypoints import Waypoints, along, first_frame


def timestep(time: Tensor, flow: bool) -> Tensor:
    """Return the network's index of ``time``: with ``flow``, 1000 (1 - tau)."""
    return 1000.0 * (1.0 - time) if flow else time


class ModulateEngine(nn.Module):
    """Time 1 to the modulations of all of a denoiser's norms, 1 M, in its network's dtype."""

    def __init__(self, modulations: nn.Module, flow: bool) -> None:
        super().__init__()
        self.modulations, self.flow = modulations, flow

    def forward(self, time: Tensor) -> Tensor:
        """Return the modulations."""
        return self.modulations(timestep(time, self.flow))


class DenoiseEngine(nn.Module):
    """State 1 T C H W, time 1, text G L D and image 1 1 C H W to velocity G T C H W.

    The first frame's latents are padded with zeros in time and concatenated on channels (CogVideoX-I2V). With
    ``flow`` the time is DVG-WM's flow time tau and the network sees 1000 (1 - tau). A network without weights for its
    modulations is given the ``modulation`` of this time, 1 M (`ModulateEngine`).
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, transformer: nn.Module, dit: DiT, grid: tuple[int, int], latent_frames: int, flow: bool) -> None:
        super().__init__()
        self.transformer, self.flow = transformer, flow
        cosines, sines = rotary_positions(dit, grid, latent_frames)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(
        self, state: Tensor, time: Tensor, text: Tensor, image: Tensor, modulation: Tensor | None = None
    ) -> Tensor:
        """Return the velocity of every branch."""
        padding = torch.zeros_like(state[:, 1:])
        return self._velocity([state, torch.cat([image, padding], 1)], time, text, modulation)

    def _velocity(self, inputs: list[Tensor], time: Tensor, text: Tensor, modulation: Tensor | None) -> Tensor:
        branches = text.shape[0]
        stacked = torch.cat([part.expand(branches, -1, -1, -1, -1) for part in inputs], 2)
        (velocity,) = self.transformer(
            hidden_states=stacked,
            encoder_hidden_states=text,
            timestep=timestep(time, self.flow).expand(branches),
            image_rotary_emb=(self.cosines, self.sines),
            return_dict=False,
            **({} if modulation is None else {"modulation": modulation}),
        )
        return velocity


class CleanDenoiseEngine(DenoiseEngine):
    """`DenoiseEngine` for a network of clean latents; the velocity follows from them and the state.

    The first frame's latents are known: the network sees them beside every latent frame, and they are the first of the
    clean ones. The preview's velocity is ``(alpha x_t - z) / sigma``, with ``flow`` the refiner's is
    ``(z - x_tau) / (1 - tau)``.
    In the margin nothing changes: latents are a linear codec's, of differences to the first frame, and 0 there. With
    waypoints (`follow`) the network also sees, at every latent, the tool's path.
    """

    alpha: Tensor
    sigma: Tensor

    def __init__(
        self, transformer: nn.Module, dit: DiT, grid: tuple[int, int], latent_frames: int, flow: bool, snr_shift: float
    ) -> None:
        super().__init__(transformer, dit, grid, latent_frames, flow)
        self.margin = dit.margin
        self.waypoints: Waypoints | None = None
        self.codec: LinearCodec | None = None
        aside = dit.margin // dit.patch
        for name in ("cosines", "sines"):
            rows = self.get_buffer(name).unflatten(0, (-1, grid[1] // dit.patch))
            self.register_buffer(name, rows[:, aside : rows.shape[1] - aside].flatten(0, 1), persistent=False)
        alpha, sigma = preview_signal(snr_shift)
        self.register_buffer("alpha", alpha.float(), persistent=False)
        self.register_buffer("sigma", sigma.float(), persistent=False)

    def forward(
        self, state: Tensor, time: Tensor, text: Tensor, image: Tensor, modulation: Tensor | None = None,
        poses: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the velocity of every branch; ``poses`` B N D take the place of the waypoints'."""
        inputs = [state, image.expand(-1, state.shape[1], -1, -1, -1)]
        if self.waypoints is not None:
            inputs.append(along(self.path(text, image) if poses is None else poses, *state.shape[-2:]))
        return self._towards(self._predicted(inputs, time, text, modulation)[:, 1:], state, time, image)

    def follow(self, waypoints: Waypoints, codec: LinearCodec) -> None:
        """Let the network draw along the path from ``waypoints`` and the first frame, as ``codec`` decodes it."""
        self.waypoints, self.codec = waypoints, codec

    def path(self, text: Tensor, image: Tensor) -> Tensor:
        """Return the poses, B N D in [-1, 1], of the waypoints for every branch of the text."""
        assert self.waypoints is not None, "waypoints"
        assert self.codec is not None, "their codec"
        frame = first_frame(self.codec, image, self.margin)
        return self.waypoints(frame.expand(text.shape[0], -1, -1, -1), text).clamp(-1.0, 1.0)

    def _predicted(self, inputs: list[Tensor], time: Tensor, text: Tensor, modulation: Tensor | None) -> Tensor:
        middle = slice(self.margin, inputs[0].shape[-1] - self.margin)
        predicted = self._velocity([part[..., middle] for part in inputs], time, text, modulation)
        return functional.pad(predicted, (self.margin, self.margin))

    def _towards(self, groups: Tensor, state: Tensor, time: Tensor, image: Tensor) -> Tensor:
        """Return the velocity towards the clean latents, the first frame's and the ``groups`` after it."""
        clean = torch.cat([image.expand(groups.shape[0], -1, -1, -1, -1), groups], 1)
        if self.flow:
            return (clean - state) / (1.0 - time).view(-1, 1, 1, 1, 1)
        index = time.round().long()
        alpha, sigma = (level[index].view(-1, 1, 1, 1, 1) for level in (self.alpha, self.sigma))
        return (alpha * state - clean) / sigma


class CleanRefineEngine(CleanDenoiseEngine):
    """`CleanDenoiseEngine` that also sees the preview's latents, 1 T C h w, and tells their correction.

    ``lift`` takes them to the refiner's (`LinearCodec.lift`). A network of zeros leaves the preview as it is.
    """

    lift: Tensor

    def see_through(self, lift: Tensor) -> None:
        """Take the preview's latents to the refiner's by ``lift``."""
        self.register_buffer("lift", lift[..., None, None], persistent=False)

    def forward(  # type: ignore[override]
        self,
        state: Tensor,
        time: Tensor,
        text: Tensor,
        image: Tensor,
        preview: Tensor,
        modulation: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity of every branch."""
        lifted = self.lifted(preview[:, 1:])
        shown = image.expand(-1, state.shape[1], -1, -1, -1)
        predicted = self._predicted([state, shown, torch.cat([image, lifted], 1)], time, text, modulation)
        return self._towards(predicted[:, 1:] + lifted, state, time, image)

    def lifted(self, groups: Tensor) -> Tensor:
        """Return the refiner's latents, B t C H W, of the preview's, B t C h w, all of them of groups of frames."""
        finer = functional.conv2d(groups.flatten(0, 1), self.lift)
        factor = round((self.lift.shape[0] / self.lift.shape[1]) ** 0.5)
        return functional.pixel_shuffle(finer, factor).unflatten(0, groups.shape[:2])


def denoise_engine(network: nn.Module, preset: Preset, flow: bool, networks: Networks | None = None) -> DenoiseEngine:
    """Return the engine of the preset's preview, with ``flow`` of its refiner, in the preset's form.

    ``networks`` has the rest: the preview's waypoints, and the codecs.
    """
    dit, size = (preset.refiner, preset.high) if flow else (preset.preview, preset.low)
    assert dit is not None, "a system with two stages"
    grid, frames, snr_shift = preset.grid(size), preset.latent_frames, preset.sampling.preview_snr_shift
    sees = flow and preset.refiner_sees_preview
    if dit.predicts == "clean" and sees:
        assert networks is not None, "the codecs"
        refine = CleanRefineEngine(network, dit, grid, frames, flow, snr_shift)
        refine.see_through(lift_of(preset, networks))
        return refine
    if dit.predicts == "clean":
        clean = CleanDenoiseEngine(network, dit, grid, frames, flow, snr_shift)
        if networks is not None and networks.waypoints is not None and not flow:
            assert isinstance(networks.low_codec, LinearCodec), "clean latents are a linear codec's"
            clean.follow(networks.waypoints, networks.low_codec)
        return clean
    engine = DenoiseEngine(network, dit, grid, frames, flow)
    return GuidedRefineEngine(engine, preset.preview_scaling, preset.refiner_scaling) if sees else engine


def lift_of(preset: Preset, networks: Networks) -> Tensor:
    """Return the map from the preview's latents to the refiner's, scaling included; both codecs are linear."""
    low, high = networks.low_codec, networks.codec
    assert isinstance(low, LinearCodec)
    assert isinstance(high, LinearCodec)
    source, target = (torch.tensor(scaling.std) for scaling in (preset.preview_scaling, preset.refiner_scaling))
    lift = high.lift(low, preset.high[0] // preset.low[0]).unflatten(0, (high.channels, -1))
    return (lift * source / target.view(-1, 1, 1)).flatten(0, 1)


def preview_signal(snr_shift: float) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma, float64 [1000] each, of CogVideoX's noise schedule with zero terminal SNR."""
    alpha = torch.from_numpy(cogvideox_signal(1000, 0.00085, 0.012, snr_shift))
    return alpha, (1.0 - alpha**2).clamp_min(0.0).sqrt()


class GuidedRefineEngine(DenoiseEngine):
    """`DenoiseEngine` that also sees the preview's latents, 1 T C h w, upsampled and rescaled to the refiner's."""

    scale: Tensor
    shift: Tensor

    def __init__(self, engine: DenoiseEngine, preview: Scaling, refiner: Scaling) -> None:
        nn.Module.__init__(self)
        self.transformer, self.flow = engine.transformer, engine.flow
        self.register_buffer("cosines", engine.cosines, persistent=False)
        self.register_buffer("sines", engine.sines, persistent=False)
        scale, shift = rescaling(preview, refiner)
        self.register_buffer("scale", torch.tensor(scale).view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(-1, 1, 1), persistent=False)

    def forward(  # type: ignore[override]
        self,
        state: Tensor,
        time: Tensor,
        text: Tensor,
        image: Tensor,
        preview: Tensor,
        modulation: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity of every branch."""
        rescaled = (preview * self.scale + self.shift).flatten(0, 1)
        upsampled = functional.interpolate(rescaled, state.shape[-2:], mode="bilinear", align_corners=False)
        padding = torch.zeros_like(state[:, 1:])
        return self._velocity([state, torch.cat([image, padding], 1), upsampled[None]], time, text, modulation)


def rescaling(source: Scaling, target: Scaling) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return scale and shift per channel from one latent scaling to another: 1.64655 and 0 from CogVideoX 5B to 2B."""
    pairs = list(zip(source.mean, source.std, target.mean, target.std, strict=True))
    return tuple(s / t for _, s, _, t in pairs), tuple((m - n) / t for m, _, n, t in pairs)
