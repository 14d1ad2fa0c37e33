"""The policy: chunks of actions from a few frames each, learned from demonstrations (DVG-WM, Eq. 6; Chi et al. 2023)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset as TorchDataset

from dvgwm.models.networks import Networks
from dvgwm.models.policy import FrameEncoder
from dvgwm.models.sizes import Actions, Policy, Preset
from dvgwm.runtime.chunks import Chunking
from dvgwm.runtime.types import FloatArray

from .arrays import Arrays
from .config import PolicyPart
from .objectives import NoiseLevels, diffuse, policy_levels, pose_error, squared_error

VISITS = 50
"""Different windows of each episode."""


def normalise(values: FloatArray, actions: Actions) -> FloatArray:
    """Return actions N D in the contract's units as the policy has them, in [-1, 1]."""
    lower, upper = np.asarray(actions.lower, np.float32), np.asarray(actions.upper, np.float32)
    return np.asarray(np.clip(2.0 * (values - lower) / (upper - lower) - 1.0, -1.0, 1.0), np.float32)


def window_chunking(policy: Policy, window: int) -> Chunking:
    """Return the chunks of a window of so many frames, ``stride`` apart."""
    return Chunking((window - 1) * policy.stride + 1, policy.stride, policy.offsets)


class Windows(TorchDataset[dict[str, Tensor]]):
    """Windows of demonstrations: every ``stride``-th frame from some frame on, and the chunk of actions from each start.

    ``frames`` is uint8 W H w 3; ``actions`` float32 C horizon D in [-1, 1], for every chunk whose frames are all in the
    window; ``pose`` float32 W D is where the tool is in each frame, the action that led there, and ``known`` bool W whether
    there was one. Beyond the end of an episode the last frame and the last action are held. A window begins anywhere, at the
    episode's first frame more often, so that its first chunks are as frequent as the others.
    """

    def __init__(self, preset: Preset, arrays: Arrays, episodes: Sequence[int], window: int, seed: int) -> None:
        self.preset, self.arrays, self.episodes, self.window, self.seed = preset, arrays, episodes, window, seed
        self.chunking = window_chunking(preset.policy, window)

    def __len__(self) -> int:
        return len(self.episodes) * VISITS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        policy, number = self.preset.policy, self.episodes[index // VISITS]
        frames, actions = self.arrays.frames(number), self.arrays.actions(number)
        last = len(frames) - 1
        random = np.random.default_rng((self.seed, index))
        begin = max(0, int(random.integers(-int(self.chunking.starts[-1]), max(1, last - policy.stride))))
        shown = np.minimum(begin + policy.stride * np.arange(self.window), last)
        taken = np.minimum(begin + self.chunking.starts[:, None] + np.arange(policy.horizon), last)
        targets = normalise(np.asarray(actions), self.preset.actions)
        return {
            "frames": torch.from_numpy(np.asarray(frames[shown])),
            "actions": torch.from_numpy(targets[taken]),
            "pose": torch.from_numpy(targets[np.maximum(shown - 1, 0)]),
            "known": torch.from_numpy(shown > 0),
        }


class PolicyObjective(nn.Module):
    """The loss of a batch of `Windows`: the noise in noisy actions (Eq. 6), and the auxiliary pose of the tool."""

    shown_index: Tensor

    def __init__(self, preset: Preset, networks: Networks, part: PolicyPart) -> None:
        super().__init__()
        policy = preset.policy
        # Convolutions on two cores are four times faster in this layout.
        self.encoder: FrameEncoder = networks.frame_encoder.requires_grad_(True)
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.unet, self.part = networks.policy.requires_grad_(True), part
        self.pose = nn.Linear(self.encoder.width, policy.dof)
        self.levels = policy_levels(preset.sampling.policy_train_steps)
        self.register_buffer(
            "shown_index", torch.from_numpy(window_chunking(policy, part.window).shown_index), persistent=False
        )

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the loss; each chunk is noised ``draws`` times, for the encoder costs more than the UNet."""
        frames = batch["frames"].flatten(0, 1).permute(0, 3, 1, 2).float() / 255.0
        if self.training and self.part.disturb:
            frames = disturb(frames, len(batch["frames"]), self.part.disturb, generator)
        features = self.encoder.features(frames)
        shown = features.unflatten(0, batch["frames"].shape[:2])[:, self.shown_index].flatten(2)
        loss = noise_error(
            self.unet, shown.flatten(0, 1), batch["actions"].flatten(0, 1), self.levels, self.part.draws, generator
        )
        if not self.part.pose_weight:
            return loss
        pose = pose_error(self.pose(features), batch["pose"].flatten(0, 1), batch["known"].flatten())
        return loss + self.part.pose_weight * pose


def noise_error(
    unet: nn.Module, features: Tensor, actions: Tensor, levels: NoiseLevels, draws: int, generator: torch.Generator
) -> Tensor:
    """Return ``E |eps - eps_theta(alpha_k a + sigma_k eps, k, features)|^2`` (DVG-WM, Eq. 6) of actions C horizon D.

    ``draws`` steps k and noises eps are drawn for every chunk.
    """
    clean, conditions = actions.repeat(draws, 1, 1), features.repeat(draws, 1)
    steps = torch.randint(len(levels.alpha), (len(clean),), generator=generator, device=clean.device)
    noise = torch.randn(clean.shape, generator=generator, device=clean.device, dtype=clean.dtype)
    return squared_error(unet(diffuse(clean, noise, *levels(steps)), steps.float(), conditions), noise)


def disturb(frames: Tensor, clips: int, strength: float, generator: torch.Generator) -> Tensor:
    """Return frames N 3 H W in [0, 1], N a multiple of ``clips``, changed clip by clip in brightness and blur, and noisy.

    At strength 1: brightness within .15, contrast within a fifth, noise of up to .04 and half of the clips blurred.
    """
    count, device = len(frames), frames.device

    def drawn(low: float, high: float) -> Tensor:
        each = torch.rand(clips, generator=generator, device=device) * (high - low) + low
        return each.repeat_interleave(count // clips).view(-1, 1, 1, 1)

    size = tuple(frames.shape[2:])
    half = functional.interpolate(frames, scale_factor=0.5, mode="bilinear", align_corners=False)
    soft = functional.interpolate(half, size, mode="bilinear", align_corners=False)
    frames = torch.lerp(frames, soft, drawn(-1.0, 1.0).clamp_min(0.0) * min(1.0, strength))
    frames = frames * (1.0 + 0.2 * strength * drawn(-1.0, 1.0)) + 0.15 * strength * drawn(-1.0, 1.0)
    # One clip's grain serves all: drawing as many numbers as there are pixels would cost a tenth of a step.
    grain = torch.rand((count // clips, *frames.shape[1:]), generator=generator, device=device).sub_(0.5)
    grain = grain.to(memory_format=torch.channels_last).repeat(clips, 1, 1, 1)
    return frames.addcmul_(grain, 0.14 * strength * drawn(0.0, 1.0)).clamp_(0.0, 1.0)
