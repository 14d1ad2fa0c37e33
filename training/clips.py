"""Clips of demonstrations as latents, kept on disk: what preview, refiner and the joint phase learn from."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from dvgwm.models.networks import Networks
from dvgwm.models.sizes import Preset, Scaling
from dvgwm.runtime.chunks import Chunking
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.files import write_json
from dvgwm.runtime.types import ImageArray

from .arrays import Arrays
from .codec import clip_of, to_model
from .degradation import degrade_pixels
from .policy import normalise

Report = Callable[[int, int], None]

WRITERS = 2
"""Threads that make latents: resizing and the codec leave the interpreter to each other."""


@dataclass(frozen=True, slots=True)
class Window:
    """A clip: the frames of ``episode`` from ``start`` on, the last one held where the episode ends before the clip."""

    episode: int
    start: int


def windows(preset: Preset, arrays: Arrays, numbers: Sequence[int], later: float, seed: int) -> tuple[Window, ...]:
    """Return one window per episode from its start and, on average, ``later`` of them from within it.

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
        if length > 2:
            starts = random.integers(1, length - 1, int(later + random.random()))
            chosen += [Window(number, int(start)) for start in starts]
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


@torch.no_grad()
def frames_of(codec: Any, latents: Tensor, scaling: Scaling) -> Tensor:
    """Return the frames, B 3 T H W in [-1, 1], of a network's latents B T C h w."""
    return decode(codec, unscaled(latents, scaling)).clamp(-1.0, 1.0)


def latents_of(preset: Preset, networks: Networks, frames: ImageArray, name: str, draw: float) -> Tensor:
    """Return a clip's latents, T C h w: ``low``, ``high``, or ``degraded``, of the degraded high pixels (Eq. A.1, A.2).

    ``draw`` in 0..1 chooses the degradation.
    """
    if name == "low":
        return scaled(encode(networks.low_codec, to_model(frames, preset.low)), preset.preview_scaling)[0]
    pixels = to_model(frames, preset.high)
    if name == "degraded":
        pixels = degrade_pixels(pixels, preset.low, draw)
    return scaled(encode(networks.codec, pixels), preset.refiner_scaling)[0]


def write_clips(
    out: Path,
    preset: Preset,
    networks: Networks,
    arrays: Arrays,
    chosen: Sequence[Window],
    names: Sequence[str],
    report: Report,
) -> None:
    """Write those latents of ``chosen`` that are ``names`` under ``out``, float16, where they are not there already."""
    facts = {name: _facts(preset, networks, arrays, chosen, name) for name in names}
    missing = [name for name in names if _read(out / f"{name}.json") != facts[name]]
    for done, name in enumerate(missing):
        (out / f"{name}.json").unlink(missing_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        grid = preset.grid(preset.low if name == "low" else preset.high)
        shape = len(chosen), preset.latent_frames, preset.codec.channels, *grid
        stored = np.lib.format.open_memmap(out / f"{name}.npy", "w+", np.float16, shape)
        draws = np.random.default_rng(5).uniform(size=len(chosen))

        def latents(window: Window, draw: float, name: str = name) -> Tensor:
            frames = clip_of(arrays.frames(window.episode), window.start, preset.frames)
            return latents_of(preset, networks, frames, name, draw)

        with ThreadPoolExecutor(WRITERS) as pool:
            for index, clip in enumerate(pool.map(latents, chosen, draws.tolist())):
                report(done * len(chosen) + index, len(missing) * len(chosen))
                stored[index] = clip.numpy()
        stored.flush()
        write_json(out / f"{name}.json", facts[name])
    if missing:
        report(len(missing) * len(chosen), len(missing) * len(chosen))


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _facts(preset: Preset, networks: Networks, arrays: Arrays, chosen: Sequence[Window], name: str) -> dict[str, Any]:
    digest = hashlib.sha256(repr((str(arrays.root.resolve()), arrays.camera, preset.low, preset.high)).encode())
    codec = networks.low_codec if name == "low" else networks.codec
    for tensor in codec.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return {"key": digest.hexdigest(), "windows": [asdict(window) for window in chosen]}


class LatentClips(TorchDataset[dict[str, Tensor]]):
    """Clips written by `write_clips`: the named arrays, float32 T C h w, the instruction's ``tokens``, int64 L.

    ``live`` makes more latents from a clip's frames and a number in 0..1: a linear codec's are made faster than read.
    There are ``also`` the chunks of ``actions`` that the clip's plan has, float32 C horizon D in [-1, 1], and the tool's
    ``poses`` in the frames after the first, float32 N D in [-1, 1]. Of a clip's latents the first ``latent_frames`` are
    read, all if it is None.
    """

    def __init__(
        self,
        preset: Preset,
        path: Path,
        names: Sequence[str],
        arrays: Arrays,
        tokens: Callable[[str], Tensor],
        also: Sequence[str] = (),
        live: Mapping[str, Callable[[ImageArray, float], Tensor]] = MappingProxyType({}),
        latent_frames: int | None = None,
    ) -> None:
        if (facts := _read(path / f"{names[0]}.json")) is None:
            raise ConfigError("CLIPS_MISSING", f"{path} holds no {names[0]} latents; write them first")
        rows = facts["windows"]
        self.preset, self.arrays, self.also, self.live = preset, arrays, also, live
        self.windows = tuple(Window(**row) for row in rows)
        self._latents = {name: np.load(path / f"{name}.npy", mmap_mode="r")[:, :latent_frames] for name in names}
        instruction = {arrays.instructions[window.episode] for window in self.windows}
        self._tokens = {each: tokens(each) for each in instruction}

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        clip = {name: torch.from_numpy(array[index].astype(np.float32)) for name, array in self._latents.items()}
        window = self.windows[index]
        if self.live:
            frames, draw = self.frames(index), float(np.random.default_rng((5, index)).uniform())
            clip |= {name: latents(frames, draw) for name, latents in self.live.items()}
        clip["tokens"] = self._tokens[self.arrays.instructions[window.episode]]
        if "actions" in self.also:
            policy = self.preset.policy
            starts = Chunking(self.preset.frames, policy.stride, policy.offsets).starts
            clip["actions"] = self._actions(window, starts[:, None] + np.arange(policy.horizon))
        if "poses" in self.also:
            clip["poses"] = self._actions(window, np.arange(self.preset.frames - 1))
        return clip

    def frames(self, index: int) -> ImageArray:
        """Return the true frames of a clip, uint8 T H W 3, as they were recorded."""
        window = self.windows[index]
        return clip_of(self.arrays.frames(window.episode), window.start, self.preset.frames)

    def instruction(self, index: int) -> str:
        """Return what is to be done in a clip."""
        return self.arrays.instructions[self.windows[index].episode]

    def _actions(self, window: Window, places: Any) -> Tensor:
        """Return the actions at ``places`` of a clip; the last one is held."""
        actions = normalise(np.asarray(self.arrays.actions(window.episode)), self.preset.actions)
        return torch.from_numpy(actions[np.minimum(window.start + places, len(actions) - 1)])
