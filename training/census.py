"""What a data set holds, and which of its episodes are learned from."""

from collections.abc import Sequence
from dataclasses import dataclass

from dvgwm.runtime.record.reader import Dataset

TEST_SHARE = 0.2
TRAIN, TEST = "train", "test"


@dataclass(frozen=True, slots=True)
class Census:
    """What a data set holds: episodes by task, their lengths in frames, what was dropped, and the split in episodes."""

    episodes: int
    dropped: int
    tasks: dict[str, int]
    frames: int
    shortest: int
    longest: int
    train: int
    test: int


def census(dataset: Dataset) -> Census:
    """Return what ``dataset`` holds."""
    lengths = [dataset.length(number) for number in range(len(dataset))]
    tasks = [str(row.get("task", row["tasks"][0])) for row in dataset.rows]
    train, test = split(dataset)
    return Census(
        episodes=len(dataset),
        dropped=sum(int(row.get("attempts", 0)) for row in dataset.rows),
        tasks={task: tasks.count(task) for task in sorted(set(tasks))},
        frames=sum(lengths),
        shortest=min(lengths),
        longest=max(lengths),
        train=len(train),
        test=len(test),
    )


def split(dataset: Dataset) -> tuple[Sequence[int], Sequence[int]]:
    """Return the episodes to learn from and those to test on: the data set's own split, else 8:2 of every task."""
    splits = dataset.info.get("splits", {})
    if TEST in splits:
        train, test = (range(*map(int, str(splits[name]).split(":"))) for name in (TRAIN, TEST))
        return train, test
    counts: dict[str, int] = {}
    held = []
    for number in range(len(dataset)):
        instruction = dataset.instruction(number)
        counts[instruction] = counts.get(instruction, 0) + 1
        if counts[instruction] % round(1 / TEST_SHARE) == 0:
            held.append(number)
    return [number for number in range(len(dataset)) if number not in set(held)], held
