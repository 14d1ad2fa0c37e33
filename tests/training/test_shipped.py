"""The shipped policy acts on what it is shown: the true future solves the tasks, a frozen first frame does not."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("mujoco", reason="the train extra is not installed")
pytest.importorskip("pyarrow", reason="the train extra is not installed")

from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.models.weights import load_parts
from dvgwm.robots.sim.tasks import TASKS
from dvgwm.training.upper_bound import act_in_torch, summary, upper_bound

pytestmark = [pytest.mark.torch, pytest.mark.sim]
WEIGHTS = Path(__file__).parents[2] / "runtime" / "bundles" / "a1_tiny"
SEED = 910_000


@pytest.fixture(scope="module")
def act():
    networks = build(preset("a1_tiny"), 0)
    assert {"frame_encoder", "policy", "codec", "low_codec"} <= set(load_parts(networks, WEIGHTS))
    return act_in_torch(preset("a1_tiny"), networks)


@pytest.mark.thorough
def test_shown_the_true_future_it_solves_every_kind_of_task(act):
    told = summary(upper_bound(preset("a1_tiny"), act, list(TASKS), 5, SEED, lambda *_: None))
    assert told["success_rate"] >= 0.8
    assert told["position_error_mm"] < 6
    assert told["sample_spread"] < 0.1


def test_shown_a_frozen_first_frame_it_does_not(act):
    def frozen(frames, seed):
        return act(np.repeat(frames[:1], len(frames), 0), seed)

    told = summary(upper_bound(preset("a1_tiny"), frozen, ["push_cube", "stack_cube"], 2, SEED, lambda *_: None))
    assert told["success_rate"] == 0.0
    assert told["position_error_mm"] > 30
