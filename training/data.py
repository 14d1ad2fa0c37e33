"""Writes demonstrations as data sets: the simulated expert's, any LeRobot data set's, LIBERO's."""

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np

from dvgwm.robots.a1_model import A1
from dvgwm.robots.sim.cameras import CAMERAS
from dvgwm.robots.sim.expert import Demonstration, demonstrate
from dvgwm.robots.sim.tasks import TASKS
from dvgwm.robots.spec import SimulationOptions
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.files import whole_directory
from dvgwm.runtime.record.features import camera_key
from dvgwm.runtime.record.lerobot import INFO, Episode, Schema
from dvgwm.runtime.record.reader import Dataset, open_dataset
from dvgwm.runtime.record.writer import finish, write_episodes, written

from .arrays import save_arrays, save_index
from .census import TEST, TEST_SHARE, TRAIN, Census, census, split

FIRST_SEED = 1_000_000
"""Layouts below this seed are for evaluation and never in a data set."""

EPISODES_A_FILE = 25
FRAME_S = 0.1
RATE_TOLERANCE = 0.05
"""Of the time between rows: most of them, or those next to each other where some were lost."""
SIZE_PX = (128, 192)
TOOL_NAMES = ("x", "y", "z", "rx", "ry", "rz", "gripper")
ATTEMPTS, ATTEMPT_SEEDS = 10, 10_000_000

Report = Callable[[int, int], None]
"""Called with episodes done and episodes wanted."""


def record_simulation(root: Path, episodes: int, seed: int, workers: int, report: Report) -> Census:
    """Record ``episodes`` of the scripted expert under ``root`` as a LeRobot v3.0 data set with arrays beside it.

    Episode n is task n modulo their number, on a layout of its own; the last fifth of the layouts is for tests. A stopped
    recording goes on. Raises `ConfigError` for a number of episodes that fills no whole files, and if ``root`` was begun
    from another seed.
    """
    if episodes < EPISODES_A_FILE or episodes % EPISODES_A_FILE:
        raise ConfigError("DATA_EPISODES", f"wanted a multiple of {EPISODES_A_FILE} episodes, got {episodes}")
    _check_seed(root, seed)
    files = range(episodes // EPISODES_A_FILE)
    left = [(root, index, seed) for index in files if not written(root, index)]
    done = len(files) - len(left)
    report(done * EPISODES_A_FILE, episodes)
    with ExitStack() as opened:
        recorded: Iterator[None] = map(_record_file, left)
        if workers > 1:
            recorded = opened.enter_context(_started(workers)).imap_unordered(_record_file, left)
        for _ in recorded:
            done += 1
            report(done * EPISODES_A_FILE, episodes)
    test = round(episodes / len(TASKS) * TEST_SHARE) * len(TASKS)
    splits = {TRAIN: f"0:{episodes - test}", TEST: f"{episodes - test}:{episodes}"}
    return finish_set(root, _schema(), instructions(), splits, {"seed": seed})


def write_file(
    root: Path,
    schema: Schema,
    index: int,
    first: int,
    tasks: Mapping[str, int],
    camera: str,
    episodes: Sequence[Episode],
) -> None:
    """Write the ``index``-th file of a data set, from episode ``first`` on, and the arrays of ``camera`` beside it."""
    frames = {camera: [episode.frames[camera] for episode in episodes]}
    save_arrays(root, index, frames, [episode.action for episode in episodes])
    write_episodes(root, schema, index, first, tasks, episodes)


def finish_set(
    root: Path, schema: Schema, tasks: Mapping[str, int], splits: Mapping[str, str], extra: Mapping[str, Any]
) -> Census:
    """Write the metadata of a data set after its files, and return its contents."""
    finish(root, schema, tasks, splits, extra)
    dataset = open_dataset(root)
    save_index(root, [(dataset.length(n), dataset.instruction(n)) for n in range(len(dataset))], EPISODES_A_FILE)
    return census(dataset)


def _started(workers: int) -> Pool:
    """Return a pool with all orders handed to its workers; raises `ConfigError` if there can be none.

    A signal in the middle of it would end a worker with a traceback: SIGTERM waits.
    """
    early: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: early.append(number))
    try:
        pool = multiprocessing.get_context("spawn").Pool(workers)
    except OSError as error:
        raise ConfigError(
            "DATA_WORKERS", f"worker processes want a writable /dev/shm: {error.strerror}; mount it, or use --workers 1"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if early:
        pool.terminate()
        signal.raise_signal(signal.SIGTERM)
    return pool


def record_episodes(
    root: Path,
    schema: Schema,
    episodes: Iterable[Episode],
    splits: Callable[[int], Mapping[str, str]],
    camera: str,
    report: Report,
    total: int = 0,
) -> Census:
    """Write ``episodes`` of another data set under ``root`` as LeRobot v3.0, with arrays of ``camera`` beside it.

    ``splits`` gets the number of episodes; ``total`` is that number if it is known beforehand. Nothing is left of it if they
    cannot be read to their end. Raises `ConfigError` if ``root`` is not empty.
    """
    if root.is_dir() and any(root.iterdir()):
        raise ConfigError("DATA_OCCUPIED", f"{root} exists and is not empty; name another --out")
    tasks: dict[str, int] = {}
    count, left = 0, iter(episodes)
    with whole_directory(root, INFO, "data set") as staged:
        for index in itertools.count():
            if not (batch := list(islice(left, EPISODES_A_FILE))):
                break
            for episode in batch:
                tasks.setdefault(episode.instruction, len(tasks))
            write_file(staged, schema, index, count, tasks, camera, batch)
            count += len(batch)
            report(count, max(count, total))
        return finish_set(staged, schema, tasks, splits(count), {})


def record_from(
    source: Path,
    size: tuple[int, int],
    root: Path,
    report: Report,
    camera: str | None = None,
    state: str | None = None,
    action: str | None = None,
) -> Census:
    """Write the demonstrations under ``source`` into ``root``: a LeRobot data set's, or LIBERO's HDF5 files.

    ``camera``, ``state`` and ``action`` name a LeRobot data set's features. Raises `ConfigError` if there are neither, or no
    such features.
    """
    if (source / INFO).exists():
        dataset = open_dataset(source, state, action)
        chosen = _chosen_camera(dataset, camera)
        train, test = split(dataset)
        schema, episodes = resized(dataset, chosen, size)
        # A split is a range of episodes: those to learn from come first.
        ordered = [*train, *test]
        found = record_episodes(
            root, schema, episodes(ordered), lambda _: _ranges(len(train), len(test)), chosen, report, len(ordered)
        )
        return replace(found, absent=dataset.absent)
    from .libero import CAMERA, demonstrations, read_libero

    schema, learned, held_files = read_libero(source, size)
    count = 0

    def counted() -> Iterator[Episode]:
        nonlocal count
        for episode in demonstrations(learned, size):
            count += 1
            yield episode
        yield from demonstrations(held_files, size)

    return record_episodes(root, schema, counted(), lambda total: _ranges(count, total - count), CAMERA, report)


def _chosen_camera(dataset: Dataset, camera: str | None) -> str:
    """Return the name of the camera to keep: the first if none is chosen."""
    columns = dataset.columns
    key = camera_key(dataset.root, dataset.info, columns, camera or next(iter(columns.cameras), "NAME"))
    return next(name for name, feature in columns.cameras.items() if feature == key)


def _ranges(train: int, test: int) -> dict[str, str]:
    return {TRAIN: f"0:{train}"} | ({TEST: f"{train}:{train + test}"} if test else {})


def resized(
    dataset: Dataset, camera: str, size: tuple[int, int]
) -> tuple[Schema, Callable[[Sequence[int]], Iterator[Episode]]]:
    """Return schema and episodes by number of a data set with one camera, frames cropped and resized to ``size``."""
    schema = replace(dataset.schema, cameras={camera: size})

    def episodes(numbers: Sequence[int]) -> Iterator[Episode]:
        for number in numbers:
            check_rate(dataset, number)
        for number, frames in zip(numbers, dataset.videos(numbers, camera, size), strict=True):
            state, action = dataset.vectors(number)
            yield Episode(dataset.instruction(number), {camera: frames}, state, action, {})

    return schema, episodes


def check_rate(dataset: Dataset, number: int) -> None:
    """Raise `ConfigError` if the rows of an episode are not at the data set's rate."""
    apart_s = np.diff(dataset.stamps_s(number)) * dataset.schema.fps
    if len(apart_s) and min(abs(np.median(apart_s) - 1), abs(apart_s.min() - 1)) > RATE_TOLERANCE:
        raise ConfigError(
            "DATASET_RATE",
            f"{dataset.root}: episode {dataset.rows[number].index} has {dataset.schema.fps / np.median(apart_s):g} rows a "
            f"second, {INFO} says {dataset.schema.fps:g}; correct its fps",
        )


def instructions() -> dict[str, int]:
    """Return every instruction of the simulated tasks with its number."""
    sentences = [task.instruction(target) for task in TASKS.values() for target in task.targets]
    return {sentence: index for index, sentence in enumerate(dict.fromkeys(sentences))}


def _schema() -> Schema:
    return Schema(A1.name, 1 / FRAME_S, dict.fromkeys(CAMERAS, SIZE_PX), A1.joint_names, TOOL_NAMES)


def _check_seed(root: Path, seed: int) -> None:
    """Raise `ConfigError` if ``root`` holds another seed's episodes or something else."""
    note = root / "seed"
    begun = note.read_text("utf-8").strip() if note.is_file() else None
    if begun is None and root.is_dir() and any(root.iterdir()):
        raise ConfigError("DATA_OCCUPIED", f"{root} exists and holds no recording; name another --out")
    if begun not in (None, str(seed)):
        raise ConfigError("DATA_SEED", f"{root} was begun with --seed {begun}, not {seed}; name another --out")
    root.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{seed}\n", "utf-8")


def _record_file(job: tuple[Path, int, int]) -> None:
    root, index, seed = job
    first = index * EPISODES_A_FILE
    episodes = [_episode(number, seed) for number in range(first, first + EPISODES_A_FILE)]
    write_file(root, _schema(), index, first, instructions(), "scene", episodes)


def _episode(number: int, seed: int) -> Episode:
    task, layout = list(TASKS)[number % len(TASKS)], FIRST_SEED + seed + number // len(TASKS)
    for attempt in range(ATTEMPTS):
        options = SimulationOptions(task, layout + attempt * ATTEMPT_SEEDS, *SIZE_PX)
        shown = demonstrate(options)
        if shown.solved:
            return _recorded(shown, options, attempt)
    raise AssertionError(f"the expert failed {ATTEMPTS} times at {task} from seed {layout}")


def _recorded(shown: Demonstration, options: SimulationOptions, attempt: int) -> Episode:
    extras: dict[str, Any] = {
        "task": options.task,
        "target": shown.target,
        "layout_seed": options.seed,
        "attempts": attempt,
    }
    return Episode(
        instruction=shown.instruction,
        frames={camera: np.stack([seen.images[camera] for seen in shown.observations]) for camera in CAMERAS},
        state=np.stack([seen.joints for seen in shown.observations]),
        action=np.concatenate([shown.tool_actions, shown.tool_actions[-1:]]),
        extras=extras,
    )
