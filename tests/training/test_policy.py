"""The policy's windows, its learning, and the pictures that disturb it."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("peft", reason="the train extra is not installed")
pytest.importorskip("pyarrow", reason="the train extra is not installed")


from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.training.arrays import open_arrays
from dvgwm.training.policy import PolicyObjective, Windows, disturb, normalise

from .fitting import learns, seeded

pytestmark = pytest.mark.torch


def test_windows_hold_the_last_frame_and_action_and_know_the_first_pose(demonstrations):
    arrays, size = open_arrays(demonstrations, "scene"), preset("a1_tiny")
    windows_ = Windows(size, arrays, [0], 13, 0)
    wanted = normalise(np.asarray(arrays.actions(0)), size.actions)
    starts = set()
    for index in range(len(windows_)):
        item = windows_[index]
        assert item["frames"].shape == (13, 64, 96, 3)
        assert item["actions"].shape == (11, 16, 7)
        match = np.abs(wanted - item["actions"][0, 0].numpy()).max(1).argmin()
        starts.add(int(match))
        for chunk in range(11):
            rows = np.minimum(match + 4 * chunk + np.arange(16), 49)
            assert np.allclose(item["actions"][chunk], wanted[rows], atol=1e-6)
        assert bool(item["known"][0]) == (match > 0)
        assert np.allclose(item["pose"][1], wanted[min(match + 4, 49) - 1], atol=1e-6)
        assert np.array_equal(item["frames"][-1], arrays.frames(0)[min(match + 48, 49)])
    assert len(starts) > 8, "clips begin anywhere"


@pytest.mark.thorough
def test_the_policy_learns_where_the_square_goes(small_run):
    arrays = open_arrays(small_run.data.path, "scene")
    windows_ = Windows(small_run.preset, arrays, [0, 1], 13, 0)
    batch = torch.utils.data.default_collate([windows_[0], windows_[51]])
    part = replace(small_run.policy, disturb=0.0, window=13)
    objective = PolicyObjective(small_run.preset, build(small_run.preset, 0), part)
    first, last = learns(objective, batch, 60)
    assert last < 0.6 * first


def test_disturbed_frames_stay_pictures_and_differ_clip_by_clip():
    frames = torch.rand(6, 3, 32, 48, generator=seeded()).to(memory_format=torch.channels_last)
    made = disturb(frames, 2, 1.0, seeded(1))
    assert made.shape == frames.shape
    assert 0.0 <= float(made.min()) <= float(made.max()) <= 1.0
    change = (made - frames).flatten(1).mean(1)
    assert change[:3].std() < 0.02 < abs(change[0] - change[3])
    assert torch.allclose(disturb(frames, 2, 0.0, seeded(1)), frames, atol=1e-6)
