"""Clips as latents on disk: which ones, and when they are written."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("peft", reason="the train extra is not installed")
pytest.importorskip("pyarrow", reason="the train extra is not installed")


from dvgwm.models.presets import preset
from dvgwm.runtime.errors import ConfigError
from dvgwm.training import parts
from dvgwm.training.arrays import open_arrays
from dvgwm.training.clips import LatentClips, windows, write_clips

pytestmark = pytest.mark.torch


def test_clips_begin_within_episodes_too_and_short_ones_are_dropped_where_the_preset_says_so(demonstrations):
    arrays, size = open_arrays(demonstrations, "scene"), preset("a1_tiny")
    chosen = windows(size, arrays, range(20), 0.5, 0)
    assert {window.episode for window in chosen if window.start == 0} == set(range(20))
    assert 3 < sum(window.start > 0 for window in chosen) < 17
    assert len(windows(size, arrays, range(20), 2.0, 0)) == 60
    longer = replace(size, frames=53)
    assert len(windows(longer, arrays, range(20), 0.0, 0)) == 20
    dropped = windows(replace(longer, drop_short=True), arrays, range(20), 0.0, 0)
    assert {window.episode for window in dropped} == {n for n in range(20) if arrays.lengths[n] >= 53}


def test_latents_are_written_once_each_kind_on_its_own_and_again_for_another_codec(small):
    run, networks, _, _ = small
    arrays, out, counts = open_arrays(run.data.path, "scene"), run.out / "two", []
    chosen = windows(run.preset, arrays, range(2), 1.0, 0)

    def write(*names):
        counts.clear()
        write_clips(out, run.preset, networks, arrays, chosen, names, lambda *at: counts.append(at))
        return counts[-1] if counts else None

    assert write("low", "high") is None
    before = np.load(out / "high.npy")
    networks.codec.get_buffer("group_scale").mul_(2.0)
    assert write("low") is None
    assert write("low", "high") == (len(chosen), len(chosen))
    assert np.allclose(np.load(out / "high.npy")[:, 1:] * 2.0, before[:, 1:], atol=2e-3)
    (out / "high.json").unlink()  # stopped before it was whole
    assert write("high", "degraded") == (2 * len(chosen), 2 * len(chosen))
    with pytest.raises(ConfigError, match="no low latents"):
        LatentClips(run.preset, run.out / "nowhere", ("low",), arrays, parts.tokens_of(run.preset))
