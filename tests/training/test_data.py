"""Recording the simulated expert, and the arrays that the loops read."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the train extra is not installed")
pytest.importorskip("mujoco", reason="the train extra is not installed")
pytest.importorskip("av", reason="the train extra is not installed")

from dvgwm.robots.sim.tasks import TASKS
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.record.reader import open_dataset
from dvgwm.training import data
from dvgwm.training.arrays import open_arrays
from dvgwm.training.census import split

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "set"
    counts = []
    return root, data.record_simulation(root, 25, 3, 2, lambda done, wanted: counts.append((done, wanted))), counts


@pytest.mark.thorough
def test_every_task_is_recorded_and_split_by_layout(recorded):
    root, census, counts = recorded
    assert counts == [(0, 25), (25, 25)]
    assert census.tasks == dict.fromkeys(sorted(TASKS), 5)
    assert (census.train, census.test) == (20, 5)
    dataset = open_dataset(root)
    train, test = split(dataset)
    layouts = [{dataset.rows[number].facts["layout_seed"] for number in part} for part in (train, test)]
    assert not layouts[0] & layouts[1]
    assert min(layouts[0] | layouts[1]) >= data.FIRST_SEED
    assert census.shortest >= 49


@pytest.mark.thorough
def test_a_finished_recording_is_left_alone_and_another_seed_is_refused(recorded):
    root, census, _ = recorded
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")}
    assert data.record_simulation(root, 25, 3, 1, lambda *_: None) == census
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")} == before
    with pytest.raises(ConfigError, match="begun with --seed 3, not 4"):
        data.record_simulation(root, 25, 4, 1, lambda *_: None)
    with pytest.raises(ConfigError, match="multiple of 25"):
        data.record_simulation(root, 30, 3, 1, lambda *_: None)


@pytest.mark.thorough
def test_arrays_hold_the_frames_before_compression_and_the_actions(recorded):
    root, census, _ = recorded
    dataset, arrays = open_dataset(root), open_arrays(root, "scene")
    assert sum(arrays.lengths) == census.frames
    for number in (0, 7, 24):
        seen, decoded = arrays.frames(number), dataset.frames(number, "scene")
        assert seen.shape == decoded.shape
        assert np.abs(seen.astype(int) - decoded).mean() < 4
        assert np.allclose(arrays.actions(number), dataset.vectors(number)[1], atol=1e-6)
        assert arrays.instructions[number] == dataset.instruction(number)
    with pytest.raises(ConfigError, match="camera called 'wrist'"):
        open_arrays(root, "wrist")


@pytest.mark.thorough
def test_without_a_split_of_its_own_a_fifth_of_every_task_is_held_out(recorded):
    dataset = open_dataset(recorded[0])
    dataset = replace(dataset, info=replace(dataset.info, splits=None))
    train, test = split(dataset)
    assert sorted((*train, *test)) == list(range(25))
    words, held = (Counter(map(dataset.instruction, numbers)) for numbers in (range(25), test))
    assert held == Counter({instruction: count // 5 for instruction, count in words.items()})
    assert held.total() > 0


def test_what_is_no_recording_is_not_written_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no recording"):
        data.record_simulation(tmp_path, 25, 0, 1, lambda *_: None)
