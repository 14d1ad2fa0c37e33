"""A data set's contents, and its split into episodes to learn from and to test on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.record.lerobot import INFO
from dvgwm.runtime.record.reader import Dataset

TEST_SHARE = 0.2
TRAIN, TEST = "train", "test"
TESTS = (TEST, "val", "validation", "eval")
"""Names of the split that is not learned from, the first that there is."""
_RANGE = re.compile(r"\d{1,9}:\d{1,9}")


@dataclass(frozen=True, slots=True)
class Census:
    """A data set's contents: episodes by task, their lengths in frames, the dropped ones, and the split in episodes.

    ``absent`` episodes are counted or listed, and not there.
    """

    episodes: int
    absent: int
    dropped: int
    tasks: dict[str, int]
    frames: int
    shortest: int
    longest: int
    train: int
    test: int


def census(dataset: Dataset) -> Census:
    """Return the contents of ``dataset``."""
    lengths = [dataset.length(number) for number in range(len(dataset))]
    tasks = [str(row.facts.get("task") or dataset.instruction(number)) for number, row in enumerate(dataset.rows)]
    train, test = split(dataset)
    attempts = (row.facts.get("attempts") for row in dataset.rows)
    return Census(
        episodes=len(dataset),
        absent=dataset.absent,
        dropped=sum(count for count in attempts if isinstance(count, int)),
        tasks={task: tasks.count(task) for task in sorted(set(tasks))},
        frames=sum(lengths),
        shortest=min(lengths),
        longest=max(lengths),
        train=len(train),
        test=len(test),
    )


def split(dataset: Dataset) -> tuple[Sequence[int], Sequence[int]]:
    """Return the episodes to learn from and those to test on: the data set's own split, else 8:2 of every task.

    A split of its own counts episodes by their indices. With one for tests only, the others are learned from; with one for
    learning only, 8:2 of it. Raises `ConfigError` for a split of unknown form, past the last episode or overlapping the other,
    and if there is nothing to learn from.
    """
    train, test = _split(dataset)
    if not train:
        raise _wrong(dataset, f"none of the {len(dataset)} episodes that are here is left to learn from")
    return train, test


def _split(dataset: Dataset) -> tuple[Sequence[int], Sequence[int]]:
    splits = dataset.info.splits or {}
    held_name = next((name for name in TESTS if name in splits), None)
    train = None if TRAIN not in splits else _named(dataset, TRAIN, splits[TRAIN])
    if held_name is None:
        return _eight_to_two(dataset, range(len(dataset)) if train is None else train)
    test = _named(dataset, held_name, splits[held_name])
    if train is None:
        train = [number for number in range(len(dataset)) if number not in set(test)]
    if shared := set(train) & set(test):
        raise _wrong(dataset, f"episode {dataset.rows[min(shared)].index} is in {TRAIN} and in {held_name}")
    return train, test


def _eight_to_two(dataset: Dataset, numbers: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    counts: dict[str, int] = {}
    held = set()
    for number in numbers:
        instruction = dataset.instruction(number)
        counts[instruction] = counts.get(instruction, 0) + 1
        if counts[instruction] % round(1 / TEST_SHARE) == 0:
            held.add(number)
    return [number for number in numbers if number not in held], sorted(held)


def _named(dataset: Dataset, name: str, stated: Any) -> list[int]:
    """Return the numbers of a split's present episodes; it is ``FROM:TO``, several of them, or a list."""
    if isinstance(stated, list) and all(isinstance(index, int) and not isinstance(index, bool) for index in stated):
        ranges = [(index, index + 1) for index in stated]
    elif isinstance(stated, str) and all(_RANGE.fullmatch(part.strip()) for part in stated.split(",")):
        ranges = [(int(begin), int(end)) for begin, end in (part.split(":") for part in stated.split(","))]
    else:
        raise _wrong(dataset, f"wanted {name} as FROM:TO of episodes, got {str(stated)[:60]!r}")
    end = max(dataset.listed[-1].index + 1, dataset.info.total_episodes or 0)
    if past := [each for each in ranges if not 0 <= each[0] <= each[1] <= end]:
        raise _wrong(dataset, f"{name} is {past[0][0]}:{past[0][1]}, and there are {end} episodes")
    return [number for number, row in enumerate(dataset.rows) if any(a <= row.index < b for a, b in ranges)]


def _wrong(dataset: Dataset, text: str) -> ConfigError:
    return ConfigError("DATASET_SPLIT", f"{dataset.root / INFO}: splits: {text}")
