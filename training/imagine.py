"""What the cascade imagines of demonstrations' first frames, as a data set: a policy meets on it what it will be shown."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.record.lerobot import Episode, Schema
from dvgwm.runtime.record.reader import open_dataset
from dvgwm.runtime.record.writer import written

from .arrays import Arrays, open_arrays
from .cascade import Cascade
from .census import TEST, TRAIN, Census, split
from .config import Run
from .data import EPISODES_A_FILE, Report, finish_set, write_file
from .policy import normalise

BATCH = 5


def record_imagined(run: Run, cascade: Cascade, root: Path, episodes: int, report: Report) -> Census:
    """Write ``episodes`` imagined futures, a fifth of them of held-out demonstrations, with the experts' actions.

    A preview that draws along a path is given the expert's, so that frames and actions belong together.
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
    tasks = {instruction: n for n, instruction in enumerate(dict.fromkeys(arrays.instructions))}
    report(0, episodes)
    for index, first in enumerate(range(0, episodes, EPISODES_A_FILE)):
        if not written(root, index):
            batch = list(_imagined(run, cascade, arrays, chosen[first : first + EPISODES_A_FILE]))
            write_file(root, schema, index, first, tasks, run.data.camera, batch)
        report(min(first + EPISODES_A_FILE, episodes), episodes)
    return finish_set(root, schema, tasks, {TRAIN: f"0:{episodes - held}", TEST: f"{episodes - held}:{episodes}"}, {})


def _imagined(run: Run, cascade: Cascade, arrays: Arrays, numbers: Sequence[int]) -> Iterator[Episode]:
    for begin in range(0, len(numbers), BATCH):
        batch = numbers[begin : begin + BATCH]
        instructions = [arrays.instructions[number] for number in batch]
        steps = np.arange(run.preset.frames)
        actions = [np.asarray(arrays.actions(number), np.float64) for number in batch]
        actions = [action[np.minimum(steps, len(action) - 1)] for action in actions]
        first_frames = [arrays.frames(number)[0] for number in batch]
        poses = [torch.from_numpy(normalise(action[:-1].astype(np.float32), run.preset.actions)) for action in actions]
        path = torch.stack(poses) if cascade.networks.waypoints is not None else None
        videos = cascade.frames(first_frames, instructions, run.seed + batch[0], path)
        for number, instruction, video, action in zip(batch, instructions, videos, actions, strict=True):
            yield Episode(instruction, {run.data.camera: video}, action, action, {"demonstration": int(number)})
