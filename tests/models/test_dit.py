"""The transformers' attention and positions, against diffusers' own."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")

from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0

from dvgwm.export.onnx_attention import OperatorTransformer
from dvgwm.models.denoisers import DenoiseEngine
from dvgwm.models.dit import JointAttention, rotary_positions
from dvgwm.models.presets import preset
from dvgwm.models.sizes import DiT

pytestmark = pytest.mark.torch


def test_our_attention_is_diffusers(tiny):
    size = preset("test_tiny")
    engine = DenoiseEngine(tiny.preview, size.preview, size.grid(size.low), size.latent_frames, flow=False)
    inputs = (torch.randn(1, 13, 4, 4, 6), torch.tensor([321.0]), torch.randn(2, 48, 16), torch.randn(1, 1, 4, 4, 6))
    ours = engine(*inputs)
    tiny.preview.set_attn_processor(CogVideoXAttnProcessor2_0())
    theirs = engine(*inputs)
    engine.transformer = OperatorTransformer(tiny.preview)
    exported = engine(*inputs)
    engine.transformer = tiny.preview
    tiny.preview.set_attn_processor(JointAttention())
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(exported, theirs, atol=1e-6)
    engine.cosines, engine.sines = torch.ones_like(engine.cosines), torch.zeros_like(engine.sines)
    assert (engine(*inputs) - ours).abs().max() > 1e-4, "positions matter"


def test_positions_are_stretched_to_the_base_grid_or_integers():
    """At 16 x 24 tokens the step is 1.875; at 30 x 45 both agree."""
    stretched, integer = DiT(1, 1, 8, rope="stretched"), DiT(1, 1, 8, rope="integer")

    def rows(dit, grid):
        cosines, sines = rotary_positions(dit, grid, 1)
        angle = torch.atan2(sines, cosines)[:, 16]  # the slowest-turning first pair of the height's share
        return angle.reshape(grid[0] // 2, grid[1] // 2)[:, 0]

    assert rows(integer, (32, 48))[:3].tolist() == pytest.approx([0.0, 1.0, 2.0], abs=1e-5)
    assert rows(stretched, (32, 48))[1].item() == pytest.approx(1.875, abs=1e-5)
    for left, right in zip(
        rotary_positions(stretched, (60, 90), 3), rotary_positions(integer, (60, 90), 3), strict=True
    ):
        assert torch.allclose(left, right, atol=1e-5)
