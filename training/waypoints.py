"""The waypoints: where the tool goes, told from a first frame and the instruction."""

import torch
from torch import Tensor, nn

from dvgwm.models.codec import LinearCodec
from dvgwm.models.networks import Networks
from dvgwm.models.sizes import Preset
from dvgwm.models.text import embed
from dvgwm.models.waypoints import first_frame
from dvgwm.runtime.errors import ConfigError

from .config import PartSettings
from .objectives import pose_error


class WaypointsObjective(nn.Module):
    """The loss of a batch of first latents ``low``, B 1 C h w, ``tokens``, B L, and the tool's ``poses``, B N D.

    The text encoder learns with it. Raises `ConfigError` for a preset whose preview finds its own path.
    """

    borrowed = ("codec.",)

    def __init__(self, preset: Preset, networks: Networks, part: PartSettings) -> None:
        super().__init__()
        if networks.waypoints is None:
            raise ConfigError("PART_ABSENT", f"{preset.name} has no waypoints; its preview finds its own path")
        assert isinstance(networks.low_codec, LinearCodec), "clean latents are a linear codec's"
        self.waypoints, self.text = networks.waypoints.requires_grad_(True), networks.text.requires_grad_(True)
        # Convolutions on two cores are four times faster in this layout.
        self.waypoints.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.codec, self.margin, self.part = networks.low_codec, preset.preview.margin, part

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the smooth L1 error of the poses; nothing is drawn from ``generator``."""
        target = batch["poses"].flatten(0, 1)
        return pose_error(self.poses(batch).flatten(0, 1), target, torch.ones(len(target), device=target.device))

    def poses(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the poses, B N D in [-1, 1], told of a batch."""
        text = embed(self.text, batch["tokens"])
        frame = first_frame(self.codec, batch["low"][:, :1], self.margin)
        return self.waypoints(frame.contiguous(memory_format=torch.channels_last), text)
