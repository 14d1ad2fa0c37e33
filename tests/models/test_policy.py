"""The policy's features."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")


from dvgwm.models.networks import build
from dvgwm.models.policy import SpatialSoftmax
from dvgwm.models.presets import preset

pytestmark = pytest.mark.torch


def test_policy_features_say_where_things_are():
    """Spatial softmax follows a blob; the policy's output depends on frame, state and step."""
    pool = SpatialSoftmax()
    maps = torch.full((1, 1, 8, 8), -9.0)
    maps[0, 0, 6, 1] = 9.0
    x, y = pool(maps)[0]
    assert (x.item(), y.item()) == (pytest.approx(-1 + 2 / 7, abs=0.02), pytest.approx(-1 + 12 / 7, abs=0.02))
    networks = build(preset("a1_tiny"), 0)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 128, 192, 3), np.uint8))
    features = networks.frame_encoder(frames)
    assert features.shape == (2, networks.frame_encoder.width)
    assert (features[0] - features[1]).abs().max() > 1e-4
    state = torch.randn(2, 16, 7)
    features = features.repeat(1, 3)
    base = networks.policy(state, torch.tensor([5.0, 5.0]), features)
    assert base.shape == (2, 16, 7)
    for other in (
        networks.policy(state, torch.tensor([50.0, 50.0]), features),
        networks.policy(state, torch.tensor([5.0, 5.0]), features + 1),
        networks.policy(state + 1, torch.tensor([5.0, 5.0]), features),
    ):
        assert (other - base).abs().max() > 1e-3
