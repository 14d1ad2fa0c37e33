"""Demonstrations of other labs: LeRobot data sets and LIBERO's files become the same arrays."""

import json

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="the train extra is not installed")
pytest.importorskip("pyarrow", reason="the train extra is not installed")

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.record.reader import open_dataset
from dvgwm.training import data
from dvgwm.training.arrays import open_arrays
from dvgwm.training.census import split
from dvgwm.training.libero import acts

pytestmark = pytest.mark.video


def silent(*_):
    pass


def write_task(path, demos, words=None):
    """A LIBERO file: images whose top is bright (stored upside down), every third action a no-op."""
    with h5py.File(path, "w") as file:
        group = file.create_group("data")
        if words:
            group.attrs["problem_info"] = json.dumps({"language_instruction": words})
        for n in range(demos):
            length = 60 + n
            demo = group.create_group(f"demo_{n}")
            actions = np.full((length, 7), 0.1)
            actions[::3, :6] = 0.0
            actions[30:, 6] = 1.0
            demo["actions"] = actions
            images = np.zeros((length, 128, 128, 3), np.uint8)
            images[:, 64:] = 255
            demo["obs/agentview_rgb"] = images
            demo["obs/joint_states"] = np.zeros((length, 7))


def test_libero_is_read_upright_without_no_ops_and_split_by_task(tmp_path):
    source = tmp_path / "libero"
    source.mkdir()
    for n in range(5):
        write_task(source / f"task_{n}_demo.hdf5", 2, "Open the drawer" if n == 4 else None)
    census = data.record_from(source, (64, 96), tmp_path / "out", silent)
    assert census.episodes == 10
    assert census.tasks["task 0"] == 2
    assert census.tasks["open the drawer"] == 2
    dataset = open_dataset(tmp_path / "out")
    train, test = split(dataset)
    assert (len(train), len(test)) == (8, 2)
    assert {dataset.instruction(n) for n in test} == {"open the drawer"}
    arrays = open_arrays(tmp_path / "out", "agentview")
    # Of 60 actions 20 do nothing, but the one at 30 closes the gripper.
    assert arrays.lengths[0] == 41
    frames = arrays.frames(0)
    assert frames.shape == (41, 64, 96, 3)
    assert frames[0, 5].mean() > 250 > 5 > frames[0, -5].mean()
    assert dataset.info.fps == 20


def test_no_ops_move_nothing_and_leave_the_gripper():
    actions = np.zeros((4, 7))
    actions[1, 2] = 0.01
    actions[3, 6] = 1.0
    assert acts(actions).tolist() == [False, True, False, True]


def test_a_lerobot_set_is_resized_and_its_held_out_episodes_come_last(demonstrations, tmp_path):
    census = data.record_from(demonstrations, (32, 48), tmp_path / "small", silent, camera="scene")
    assert (census.train, census.test) == (16, 4)
    arrays, before = open_arrays(tmp_path / "small", "scene"), open_arrays(demonstrations, "scene")
    assert arrays.frames(3).shape[1:] == (32, 48, 3)
    assert np.allclose(arrays.actions(19), before.actions(19), atol=1e-6)
    assert arrays.instructions == before.instructions


def test_what_cannot_be_read_or_overwritten_is_refused(demonstrations, tmp_path):
    with pytest.raises(ConfigError, match="found none"):
        data.record_from(tmp_path, (32, 48), tmp_path / "out", silent)
    (tmp_path / "bad.hdf5").write_bytes(b"no")
    with pytest.raises(ConfigError, match="is no LIBERO file"):
        data.record_from(tmp_path, (32, 48), tmp_path / "out", silent)
    with pytest.raises(ConfigError, match="is not empty"):
        data.record_from(demonstrations, (32, 48), demonstrations, silent)
