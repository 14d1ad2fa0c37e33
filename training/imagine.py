"""What the cascade imagines of demonstrations' first frames, as a data set: a policy meets on it what it will be shown."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dvgwm.models.build import Networks
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.record.lerobot import Episode, Schema
from dvgwm.runtime.record.reader import open_dataset
from dvgwm.runtime.record.writer import finish, write_episodes, written
from dvgwm.runtime.sampler import SamplerSpec, table
from dvgwm.runtime.types import ImageArray

from .arrays import Arrays, open_arrays, save_arrays, save_index
from .clips import encode, scaled
from .codec import to_model
from .config import Run
from .data import EPISODES_A_FILE, TEST, TRAIN, Census, Report, census, split
from .joint import JointObjective
from .preview import PreviewObjective
from .sheet import to_frames
from .watch import frames_of

BATCH = 5


class Imagination:
    """The trained cascade in torch, many clips at once: preview, bridge, refine, decode, as the runtime runs them."""

    def __init__(self, run: Run, networks: Networks, tokens: Any) -> None:
        preset, sampling = run.preset, run.preset.sampling
        self.preset, self.networks, self.tokens = preset, networks, tokens
        self.preview = PreviewObjective(preset, networks, run.preview, tokens("")).eval()
        self.refiner = JointObjective(preset, networks, run.joint).eval()
        steps, guidance = sampling.preview_steps, sampling.preview_guidance
        self.rows = table(SamplerSpec("ddim_v", steps, guidance, snr_shift=sampling.preview_snr_shift))

    @torch.no_grad()
    def frames(self, images: Sequence[ImageArray], instructions: Sequence[str], seed: int) -> list[ImageArray]:
        """Return the imagined futures, uint8 T H W 3 each, of first frames H W 3 and their instructions."""
        preset, generator = self.preset, torch.Generator().manual_seed(seed)
        low, high = (self._first(images, which) for which in ("low", "high"))
        tokens = torch.stack([self.tokens(words) for words in instructions])
        noise = torch.randn(len(low), preset.latent_frames, *low.shape[2:], generator=generator)
        imagined = self.preview.imagine(self.rows, noise, tokens, low)
        refined = self.refiner.refined({"low": imagined, "high": high, "tokens": tokens}, generator)
        return to_frames(frames_of(self.networks.codec, refined, preset.refiner_scaling))

    def _first(self, images: Sequence[ImageArray], which: str) -> Tensor:
        preset, low = self.preset, which == "low"
        codec, size = (self.networks.low_codec, preset.low) if low else (self.networks.codec, preset.high)
        scaling = preset.preview_scaling if low else preset.refiner_scaling
        return torch.cat([scaled(encode(codec, to_model(image[None], size)), scaling) for image in images])


def record_imagined(run: Run, imagination: Imagination, root: Path, episodes: int, report: Report) -> Census:
    """Write ``episodes`` imagined futures, a fifth of them of held-out demonstrations, with the experts' actions.

    It goes on where it was stopped. Raises `ConfigError` where there are not so many demonstrations.
    """
    source, arrays = open_dataset(run.data.path), open_arrays(run.data.path, run.data.camera)
    train, test = split(source)
    held = episodes // 5
    if episodes - held > len(train) or held > len(test):
        most = f"{len(train)} demonstrations to learn from and {len(test)} held out"
        raise ConfigError("DATA_EPISODES", f"there are {most}; wanted {episodes - held} and {held} of them")
    chosen = [*train[: episodes - held], *test[:held]]
    actions = source.schema.action_names
    schema = Schema(source.schema.robot_type, run.preset.fps, {run.data.camera: run.preset.high}, actions, actions)
    tasks = {words: n for n, words in enumerate(dict.fromkeys(arrays.instructions))}
    report(0, episodes)
    for index, first in enumerate(range(0, episodes, EPISODES_A_FILE)):
        if not written(root, index):
            some = list(_imagined(run, imagination, arrays, chosen[first : first + EPISODES_A_FILE]))
            frames = {run.data.camera: [episode.frames[run.data.camera] for episode in some]}
            save_arrays(root, index, frames, [episode.action for episode in some])
            write_episodes(root, schema, index, first, tasks, some)
        report(min(first + EPISODES_A_FILE, episodes), episodes)
    finish(root, schema, tasks, {TRAIN: f"0:{episodes - held}", TEST: f"{episodes - held}:{episodes}"}, {})
    made = open_dataset(root)
    save_index(root, [(made.length(n), made.instruction(n)) for n in range(len(made))], EPISODES_A_FILE)
    return census(made)


def _imagined(run: Run, imagination: Imagination, arrays: Arrays, numbers: Sequence[int]) -> Iterator[Episode]:
    for begin in range(0, len(numbers), BATCH):
        some = numbers[begin : begin + BATCH]
        words = [arrays.instructions[number] for number in some]
        videos = imagination.frames([arrays.frames(number)[0] for number in some], words, run.seed + some[0])
        for number, said, video in zip(some, words, videos, strict=True):
            action = np.asarray(arrays.actions(number), np.float64)
            action = action[np.minimum(np.arange(run.preset.frames), len(action) - 1)]
            yield Episode(said, {run.data.camera: video}, action, action, {"demonstration": int(number)})
