"""Compares a run with a bundle's training: words, robot, and the picture, coarsely."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .bundle.manifest import Learned, PictureStats
from .types import DoubleArray, ImageArray

ROWS, COLUMNS = 8, 12
"""Of the coarse picture that is compared."""
FAR = 1.5
"""So much further than 99 in 100 of the held-out training pictures is far, if it is further than all of them."""
SHOWN = 40
"""Words that are listed where one is unknown."""
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Unfamiliar:
    """Something new to a bundle: a ``word``, the ``picture``, the ``robot`` or the ``sentence``, in words."""

    what: str
    message: str


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of ``text``, in small letters, each once."""
    return tuple(dict.fromkeys(word.casefold() for word in _WORD.findall(text)))


def coarse(image: ImageArray) -> DoubleArray:
    """Return ``image``, uint8 H W 3, as seen from far away: `ROWS` x `COLUMNS` means of its colours, 0 to 1, flat."""
    small = Image.fromarray(image).resize((COLUMNS, ROWS), Image.Resampling.BOX)
    return np.asarray(small, np.float64).ravel() / 255.0


def picture_stats(learned: Sequence[ImageArray], held_out: Sequence[ImageArray]) -> PictureStats:
    """Return mean and deviation of the ``learned`` pictures, and quantiles of the distance of those ``held_out``."""
    rows = np.stack([coarse(image) for image in learned])
    # A level of 8 bits is the least that one picture can differ from another by.
    deviation = np.maximum(rows.std(0), 1 / 255)
    stats = PictureStats(_rounded(rows.mean(0)), _rounded(deviation), ())
    distances = [distance(stats, image) for image in held_out]
    return PictureStats(stats.mean, stats.deviation, _rounded(np.quantile(distances, (0.5, 0.9, 0.99, 1.0))))


def distance(stats: PictureStats, image: ImageArray) -> float:
    """Return how many of the training pictures' standard deviations ``image`` is off, as a root mean square."""
    return float(np.sqrt(np.mean(((coarse(image) - np.array(stats.mean)) / np.array(stats.deviation)) ** 2)))


def unfamiliar(learned: Learned | None, instruction: str, image: ImageArray, robot: str | None) -> Iterator[Unfamiliar]:
    """Yield everything new to a bundle; nothing if its manifest says nothing of its training."""
    if learned is None:
        return
    asked = words_of(instruction)
    unknown = [word for word in asked if word not in learned.words]
    if unknown and learned.words:
        known = ", ".join(learned.words[:SHOWN]) + (", ..." if len(learned.words) > SHOWN else "")
        told = " and ".join(map(repr, unknown[:5]))
        yield Unfamiliar("word", f"no instruction that it was trained on has the word {told}; it knows: {known}")
    elif learned.sentences and asked not in {words_of(sentence) for sentence in learned.sentences}:
        yield Unfamiliar(
            "sentence", f"it was trained on other sentences of these words, such as {learned.sentences[0]!r}"
        )
    if robot is not None and learned.robots and robot not in learned.robots:
        yield Unfamiliar("robot", f"it was trained on {', '.join(learned.robots)}, and not on {robot}")
    if learned.pictures is None:
        return
    *_, usual, furthest = learned.pictures.quantiles
    if (off := distance(learned.pictures, image)) > max(FAR * usual, furthest):
        yield Unfamiliar(
            "picture",
            f"the picture is {off:.1f} deviations off those that it was trained on, of which 99 in 100 are within {usual:.1f}",
        )


def _rounded(values: DoubleArray) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)
