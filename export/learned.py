"""A manifest's account of the training, taken from the training data."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dvgwm.runtime.bundle.manifest import InputContract, Learned
from dvgwm.runtime.familiar import picture_stats, words_of
from dvgwm.runtime.record.reader import Dataset, open_dataset
from dvgwm.runtime.types import ImageArray

from .scenes import camera_of

MOST_EPISODES = 200
"""Whose pictures are looked at, spread over all."""
EVERY = 4
"""Every fourth picture of an episode."""
HELD_OUT = 5
"""Every fifth of those episodes gives the distances."""
MOST_SENTENCES = 1000


def learned_from(root: Path, contract: InputContract) -> Learned:
    """Return the words, robot and picture statistics of the LeRobot data set at ``root``, by the camera of ``contract``.

    Raises `ConfigError` if there is no data set, or none of its cameras is the bundle's.
    """
    dataset = open_dataset(root)
    camera = camera_of(dataset, contract, root)
    sentences = tuple(dict.fromkeys(dataset.instruction(number) for number in range(len(dataset))))
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), MOST_EPISODES)).astype(int)).tolist()
    held = chosen[HELD_OUT - 1 :: HELD_OUT] or chosen
    size = contract.height_px, contract.width_px
    pictures = picture_stats(
        list(_pictures(dataset, camera, size, [number for number in chosen if number not in held] or chosen)),
        list(_pictures(dataset, camera, size, held)),
    )
    words = tuple(sorted({word for sentence in sentences for word in words_of(sentence)}))
    return Learned(
        sentences[:MOST_SENTENCES], words, tuple(dataset.schema.cameras), (dataset.schema.robot_type,), pictures
    )


def _pictures(dataset: Dataset, camera: str, size: tuple[int, int], numbers: Sequence[int]) -> Iterator[ImageArray]:
    for frames in dataset.videos(numbers, camera, size):
        yield from frames[::EVERY]
