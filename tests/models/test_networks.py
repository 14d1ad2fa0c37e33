"""The networks of every preset: sizes, parts, seeds."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")


from dvgwm.models.networks import build, parameters
from dvgwm.models.presets import PRESETS, preset
from dvgwm.runtime.errors import ConfigError

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("name", "part", "millions"),
    [
        ("dvgwm_5b", "preview", 5570.3),
        ("dvgwm_5b", "refiner", 1693.9),
        ("dvgwm_5b", "text", 4762.3),
        ("dvgwm_5b", "codec", 215.6),
        ("dvgwm_5b", "frame_encoder", 11.18),
        ("cogvideox_5b", "preview", 5570.3),
        ("wan_14b", "preview", 16394.9),
        ("wan_14b", "codec", 126.9),
        ("wan_14b", "text", 5680.9),
        ("wan_14b", "vision", 630.8),
        ("lvp_14b", "preview", 16394.9),
    ],
)
def test_full_size_networks_have_the_papers_parameters(name, part, millions):
    """5.570 B and 1.694 B, within 0.1 %; the refiner's first-frame channels add 0.12 M to the stock 2B.

    Wan2.1-I2V-14B has 16.4 B with what its blocks look at the picture with, UMT5-XXL's encoder 5.68 B, CLIP ViT-H 631 M.
    """
    networks = build(preset(name), 0, "meta")
    assert parameters(networks.parts()[part]) / 1e6 == pytest.approx(millions, rel=1e-3)
    assert next(networks.preview.parameters()).device.type == "meta"


def test_a1_tiny_fits_24_mb_in_half_precision():
    networks = build(preset("a1_tiny"), 0, "meta")
    assert sum(parameters(part) for part in networks.parts().values()) <= 12e6
    assert parameters(networks.policy) + parameters(networks.frame_encoder) <= 1.2e6


def test_test_tiny_has_every_class_of_the_full_size(tiny):
    full = build(preset("dvgwm_5b"), 0, "meta")
    for name, part in full.parts().items():
        assert type(tiny.parts()[name]) is type(part), name


def test_the_refiner_is_a_2b_with_rotary_positions_and_no_learned_ones():
    refiner = build(preset("dvgwm_5b"), 0, "meta").refiner
    config = refiner.config
    assert (config.num_layers, config.num_attention_heads, config.in_channels) == (30, 30, 32)
    assert config.use_rotary_positional_embeddings
    assert not config.use_learned_positional_embeddings
    assert not any("pos_embedding" in name for name, _ in refiner.named_buffers())


def test_an_unknown_preset_is_refused_by_name():
    with pytest.raises(ConfigError, match="a1_tiny"):
        preset("huge")
    assert set(PRESETS) == {"a1_tiny", "dvgwm_5b", "cogvideox_5b", "wan_14b", "lvp_14b", "test_tiny", "test_wan"}


def test_seeds_decide_the_weights():
    one, same, other = (build(preset("test_tiny"), seed).preview.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
