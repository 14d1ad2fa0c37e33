"""Clips of a data set as latents, kept on disk: what the preview and the refiner learn from."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset as TorchDataset

from dvgwm.models.presets import Preset, Scaling
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.image import fit
from dvgwm.runtime.record.reader import Dataset
from dvgwm.runtime.tokenizer import byte_tokens
from dvgwm.runtime.types import ImageArray

from .degradation import degrade_pixels

ARRAYS = ("low", "high", "degraded")
DESCRIPTION = "clips.json"
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Window:
    """A clip: the frames of ``episode`` from ``start`` on, the last one held where the episode ends before the clip."""

    episode: int
    start: int


def windows(dataset: Dataset, numbers: Sequence[int], later: float, frames: int, seed: int) -> tuple[Window, ...]:
    """Return one window per episode from its start and, for a share ``later`` of them, one from within it.

    A plan is made at the start of an episode and again wherever the last plan ended, so both are learned. Episodes of
    fewer frames than a clip are left out (DVG-WM: 49).
    """
    random = np.random.default_rng((seed, 3))
    chosen = []
    for number in numbers:
        length = dataset.length(number)
        if length < frames:
            continue
        chosen.append(Window(number, 0))
        if random.random() < later:
            chosen.append(Window(number, int(random.integers(1, length - 1))))
    return tuple(chosen)


def padded_bytes(text: str, length: int) -> Tensor:
    """Return the tokens of ``text``, int64 [length], as the runtime's tokenizer of bytes makes them."""
    tokens = byte_tokens(text)
    return torch.tensor(tokens + [0] * (length - len(tokens)))


def clip_of(frames: ImageArray, start: int, length: int) -> ImageArray:
    """Return ``length`` frames from ``start`` on, the last one repeated past the end."""
    return frames[np.minimum(np.arange(start, start + length), len(frames) - 1)]


def resized(frames: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Return frames, uint8 N H W 3, at ``size`` as the runtime resizes what its camera sees."""
    return np.stack([fit(frame, *size) for frame in frames])


def to_model(frames: ImageArray) -> Tensor:
    """Return uint8 T H W 3 frames as float32 1 3 T H W in [-1, 1]."""
    return (torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1.0)[None]


def scaled(latents: Tensor, scaling: Scaling) -> Tensor:
    """Return a codec's latents B C T h w as the networks see them, B T C h w."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (scaling.mean, scaling.std))
    return (latents.transpose(1, 2) - mean) / std


def unscaled(latents: Tensor, scaling: Scaling) -> Tensor:
    """Return a network's latents B T C h w as the codec has them, B C T h w."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (scaling.mean, scaling.std))
    return (latents * std + mean).transpose(1, 2)


@torch.no_grad()
def encode(codec: nn.Module, frames: Tensor) -> Tensor:
    """Return a codec's latents, B C T h w; of a VAE the posterior's mode."""
    encoded = codec.encode(frames)
    return encoded if isinstance(encoded, Tensor) else encoded.latent_dist.mode()


@torch.no_grad()
def decode(codec: nn.Module, latents: Tensor) -> Tensor:
    """Return a codec's frames, B 3 T H W in [-1, 1]."""
    decoded = codec.decode(latents)
    return (decoded if isinstance(decoded, Tensor) else decoded.sample).clamp(-1.0, 1.0)


def upsampled(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Return B 3 T H W frames resized bilinearly to ``size``."""
    flat = frames.transpose(1, 2).flatten(0, 1)
    larger = functional.interpolate(flat, size, mode="bilinear", align_corners=False)
    return larger.unflatten(0, (frames.shape[0], -1)).transpose(1, 2)


def latents_of(preset: Preset, codec: nn.Module, frames: ImageArray, blur: float) -> dict[str, Tensor]:
    """Return the three latents of a clip, T C h w: low, high, and the degraded high ones (DVG-WM, Eq. A.1 and A.2).

    A patch codec's low resolution loses what its bridge loses too, so there the degraded clip goes through it.
    """
    high = to_model(resized(frames, preset.high))
    low = to_model(resized(frames, preset.low))
    low_latents = encode(codec, low)
    if preset.bridge == "pixel":
        seen = upsampled(decode(codec, low_latents), preset.high)
    else:
        seen = degrade_pixels(high, preset.low, blur)
    made = {
        "low": scaled(low_latents, preset.preview_scaling),
        "high": scaled(encode(codec, high), preset.refiner_scaling),
        "degraded": scaled(encode(codec, seen), preset.refiner_scaling),
    }
    return {name: latents[0] for name, latents in made.items()}


def write_clips(
    out: Path, dataset: Dataset, camera: str, chosen: Sequence[Window], preset: Preset, codec: nn.Module, report: Report
) -> None:
    """Write the latents of ``chosen`` under ``out``, float16; nothing where they are already there, of the same codec."""
    facts = _facts(dataset, camera, chosen, preset, codec)
    if (out / DESCRIPTION).is_file() and json.loads((out / DESCRIPTION).read_text("utf-8")) == facts:
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    sizes = {"low": preset.low, "high": preset.high, "degraded": preset.high}
    arrays = {
        name: np.lib.format.open_memmap(
            out / f"{name}.npy",
            "w+",
            np.float16,
            (len(chosen), preset.latent_frames, preset.codec.channels, *preset.grid(size)),
        )
        for name, size in sizes.items()
    }
    random = np.random.default_rng(5)
    for index, frames in enumerate(_clips(dataset, camera, chosen, preset.frames)):
        if index % 50 == 0:
            report(index, len(chosen))
        for name, latents in latents_of(preset, codec, frames, float(random.uniform())).items():
            arrays[name][index] = latents.numpy()
    for array in arrays.values():
        array.flush()
    (out / DESCRIPTION).write_text(json.dumps(facts), "utf-8")
    report(len(chosen), len(chosen))


def _clips(dataset: Dataset, camera: str, chosen: Sequence[Window], length: int) -> Iterator[ImageArray]:
    """Yield the frames of each window; windows of one episode that follow each other share its decoding."""
    numbers = list(dict.fromkeys(window.episode for window in chosen))
    videos = zip(numbers, dataset.videos(numbers, camera), strict=True)
    number, frames = next(videos)
    for window in chosen:
        while number != window.episode:
            number, frames = next(videos)
        yield clip_of(frames, window.start, length)


def _facts(
    dataset: Dataset, camera: str, chosen: Sequence[Window], preset: Preset, codec: nn.Module
) -> dict[str, object]:
    digest = hashlib.sha256(repr((dataset.root.resolve(), camera, preset.low, preset.high, preset.bridge)).encode())
    for tensor in codec.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    sentences = {number: dataset.instruction(number) for number in {window.episode for window in chosen}}
    return {
        "key": digest.hexdigest(),
        "windows": [asdict(window) | {"instruction": sentences[window.episode]} for window in chosen],
    }


class LatentClips(TorchDataset[dict[str, Tensor]]):
    """Clips written by `write_clips`: the named arrays, float32 T C h w, and the instruction's ``tokens``, int64 L."""

    def __init__(self, path: Path, names: Sequence[str], tokens: Callable[[str], Tensor]) -> None:
        if not (path / DESCRIPTION).is_file():
            raise ConfigError("CLIPS_MISSING", f"{path} holds no latents; run the codec part first")
        rows = json.loads((path / DESCRIPTION).read_text("utf-8"))["windows"]
        self.instructions = tuple(str(row["instruction"]) for row in rows)
        self.windows = tuple(Window(row["episode"], row["start"]) for row in rows)
        self._arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in names}
        self._tokens = {words: tokens(words) for words in set(self.instructions)}

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        made = {name: torch.from_numpy(array[index].astype(np.float32)) for name, array in self._arrays.items()}
        return made | {"tokens": self._tokens[self.instructions[index]]}
