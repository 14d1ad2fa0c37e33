"""Clips of demonstrations as latents, kept on disk: what preview, refiner and the joint phase learn from."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from dvgwm.models.build import Networks
from dvgwm.models.presets import Preset, Scaling
from dvgwm.runtime.chunks import ChunkPlan
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.files import write_json
from dvgwm.runtime.types import ImageArray

from .arrays import Arrays
from .codec import clip_of, to_model
from .degradation import degrade_pixels
from .policy import normalise

DESCRIPTION = "clips.json"
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Window:
    """A clip: the frames of ``episode`` from ``start`` on, the last one held where the episode ends before the clip."""

    episode: int
    start: int


def windows(preset: Preset, arrays: Arrays, numbers: Sequence[int], later: float, seed: int) -> tuple[Window, ...]:
    """Return one window per episode from its start and, for a share ``later`` of them, one from within it.

    A plan is made at the start of an episode and again wherever the last plan ended, so both are learned. Episodes shorter
    than a clip are left out where the preset says so.
    """
    random = np.random.default_rng((seed, 3))
    chosen = []
    for number in numbers:
        length = arrays.lengths[number]
        if preset.drop_short and length < preset.frames:
            continue
        chosen.append(Window(number, 0))
        if random.random() < later and length > 2:
            chosen.append(Window(number, int(random.integers(1, length - 1))))
    return tuple(chosen)


def scaled(latents: Tensor, scaling: Scaling) -> Tensor:
    """Return a codec's latents B C T h w as the networks see them, B T C h w."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (scaling.mean, scaling.std))
    return (latents.transpose(1, 2) - mean.to(latents)) / std.to(latents)


def unscaled(latents: Tensor, scaling: Scaling) -> Tensor:
    """Return a network's latents B T C h w as the codec has them, B C T h w."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (scaling.mean, scaling.std))
    return (latents * std.to(latents) + mean.to(latents)).transpose(1, 2)


@torch.no_grad()
def encode(codec: Any, frames: Tensor) -> Tensor:
    """Return a codec's latents, B C T h w; of a VAE the posterior's mode."""
    encoded = codec.encode(frames)
    return encoded if isinstance(encoded, Tensor) else encoded.latent_dist.mode()


def decode(codec: Any, latents: Tensor) -> Tensor:
    """Return a codec's frames, B 3 T H W, about [-1, 1]."""
    decoded = codec.decode(latents)
    return decoded if isinstance(decoded, Tensor) else decoded.sample


def latents_of(preset: Preset, networks: Networks, frames: ImageArray, draw: float) -> dict[str, Tensor]:
    """Return the latents of a clip, T C h w: low, high, and of the degraded high pixels (DVG-WM, Eq. A.1 and A.2)."""
    low, high = to_model(frames, preset.low), to_model(frames, preset.high)
    made = {
        "low": scaled(encode(networks.low_codec, low), preset.preview_scaling),
        "high": scaled(encode(networks.codec, high), preset.refiner_scaling),
        "degraded": scaled(encode(networks.codec, degrade_pixels(high, preset.low, draw)), preset.refiner_scaling),
    }
    return {name: latents[0] for name, latents in made.items()}


def write_clips(
    out: Path, preset: Preset, networks: Networks, arrays: Arrays, chosen: Sequence[Window], report: Report
) -> None:
    """Write the latents of ``chosen`` under ``out``, float16; nothing where they are already there, of the same codecs."""
    facts = _facts(preset, networks, arrays, chosen)
    if (out / DESCRIPTION).is_file() and json.loads((out / DESCRIPTION).read_text("utf-8")) == facts:
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    sizes = {"low": preset.low, "high": preset.high, "degraded": preset.high}
    made = {
        name: np.lib.format.open_memmap(
            out / f"{name}.npy",
            "w+",
            np.float16,
            (len(chosen), preset.latent_frames, preset.codec.channels, *preset.grid(size)),
        )
        for name, size in sizes.items()
    }
    random = np.random.default_rng(5)
    for index, window in enumerate(chosen):
        report(index, len(chosen))
        frames = clip_of(arrays.frames(window.episode), window.start, preset.frames)
        for name, latents in latents_of(preset, networks, frames, float(random.uniform())).items():
            made[name][index] = latents.numpy()
    for array in made.values():
        array.flush()
    write_json(out / DESCRIPTION, facts)
    report(len(chosen), len(chosen))


def _facts(preset: Preset, networks: Networks, arrays: Arrays, chosen: Sequence[Window]) -> dict[str, object]:
    digest = hashlib.sha256(repr((str(arrays.root.resolve()), arrays.camera, preset.low, preset.high)).encode())
    for codec in (networks.low_codec, networks.codec):
        for tensor in codec.state_dict().values():
            digest.update(tensor.contiguous().numpy().tobytes())
    return {"key": digest.hexdigest(), "windows": [asdict(window) for window in chosen]}


class LatentClips(TorchDataset[dict[str, Tensor]]):
    """Clips written by `write_clips`: the named arrays, float32 T C h w, the instruction's ``tokens``, int64 L.

    With ``acting`` also the chunks of actions that the clip's plan has, ``actions``, float32 C horizon D in [-1, 1].
    """

    def __init__(
        self,
        preset: Preset,
        path: Path,
        names: Sequence[str],
        arrays: Arrays,
        tokens: Callable[[str], Tensor],
        acting: bool = False,
    ) -> None:
        if not (path / DESCRIPTION).is_file():
            raise ConfigError("CLIPS_MISSING", f"{path} holds no latents; write them first")
        rows = json.loads((path / DESCRIPTION).read_text("utf-8"))["windows"]
        self.preset, self.arrays, self.acting = preset, arrays, acting
        self.windows = tuple(Window(**row) for row in rows)
        self._latents = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in names}
        words = {arrays.instructions[window.episode] for window in self.windows}
        self._tokens = {each: tokens(each) for each in words}

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        made = {name: torch.from_numpy(array[index].astype(np.float32)) for name, array in self._latents.items()}
        window = self.windows[index]
        made["tokens"] = self._tokens[self.arrays.instructions[window.episode]]
        if self.acting:
            made["actions"] = self._chunks(window)
        return made

    def _chunks(self, window: Window) -> Tensor:
        policy = self.preset.policy
        starts = ChunkPlan(self.preset.frames, policy.stride, policy.offsets).starts
        actions = normalise(np.asarray(self.arrays.actions(window.episode)), self.preset.actions)
        at = np.minimum(window.start + starts[:, None] + np.arange(policy.horizon), len(actions) - 1)
        return torch.from_numpy(actions[at])
