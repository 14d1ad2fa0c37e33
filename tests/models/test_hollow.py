"""Networks without numbers: the same names, shapes and outputs, and no memory; filled they are the networks themselves."""

import resource
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers", reason="the export extra is not installed")

from dvgwm.models.denoisers import DenoiseEngine
from dvgwm.models.hollow import beside, fill, hollow, lowered, slots
from dvgwm.models.networks import build
from dvgwm.models.presets import preset

pytestmark = pytest.mark.torch
TINY = preset("test_tiny")


def test_the_largest_preset_takes_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    networks = hollow(preset("dvgwm_5b"), torch.bfloat16)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    numbers = sum(slot.numbers for part in networks.parts().values() for slot in slots(part).values())
    assert numbers > 12e9
    assert grown_kb < 500_000
    kinds = {name: next(part.parameters()).dtype for name, part in networks.parts().items()}
    assert kinds.pop("policy") == kinds.pop("frame_encoder") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}
    assert {tensor.dtype for tensor in networks.text.parameters()} == {torch.bfloat16}


def test_a_network_says_itself_what_stays_in_float32():
    kinds = {
        name: tensor.dtype for name, tensor in hollow(preset("test_wan"), torch.bfloat16).preview.named_parameters()
    }
    assert (
        kinds["blocks.0.scale_shift_table"]
        == kinds["condition_embedder.time_embedder.linear_1.weight"]
        == torch.float32
    )
    assert kinds["blocks.0.attn1.to_q.weight"] == torch.bfloat16


def test_lowered_networks_keep_in_float32_what_moves_the_arm_and_what_overflows():
    networks = build(TINY, 3)
    half = lowered(networks, torch.float16)
    kinds = {name: {tensor.dtype for tensor in part.parameters()} for name, part in half.parts().items()}
    assert kinds.pop("policy") == kinds.pop("frame_encoder") == {torch.float32}
    overflows = {name for name, tensor in half.text.named_parameters() if tensor.dtype == torch.float32}
    assert overflows == {name for name, _ in networks.text.named_parameters() if ".wo." in name}
    assert kinds.pop("text") == {torch.float16, torch.float32}
    assert set(map(frozenset, kinds.values())) == {frozenset({torch.float16})}
    assert {part.dtype for part in slots(networks.preview).values()} == {torch.float32}, "a copy"
    assert torch.equal(half.preview.proj_out.weight, networks.preview.proj_out.weight.half())
    kept = lowered(build(preset("a1_tiny"), 3), torch.float16).parts()
    floats = {name for name, part in kept.items() if next(iter(part.state_dict().values())).dtype == torch.float32}
    assert floats == {"waypoints", "low_codec", "codec", "frame_encoder", "policy"}


def test_filled_networks_compute_what_real_ones_do():
    real, made = build(TINY, 3), hollow(TINY)
    states = {part: network.state_dict() for part, network in real.parts().items()}
    assert {part: set(slots(network)) for part, network in made.parts().items()} == {
        part: {slot.names[0] for slot in slots(network).values()} for part, network in real.parts().items()
    }
    engines = [
        DenoiseEngine(net.preview, TINY.preview, TINY.grid(TINY.low), TINY.latent_frames, flow=False)
        for net in (real, made)
    ]
    inputs = {
        "state": torch.randn(1, 13, 4, 4, 6),
        "time": torch.tensor([321.0]),
        "text": torch.randn(2, 48, 16),
        "image": torch.randn(1, 1, 4, 4, 6),
    }
    with torch.no_grad():
        wanted = engines[0](**inputs)
        shape_only = engines[1](**beside(engines[1], inputs))
    assert shape_only.shape == wanted.shape
    assert beside(engines[0], inputs)["state"] is inputs["state"]
    fill(made, lambda part, name: states[part][name])
    with torch.no_grad():
        assert torch.equal(engines[1](**inputs), wanted), "the engine that was made before has the numbers too"
        assert torch.equal(
            made.text(torch.arange(3, 9)[None]).last_hidden_state, real.text(torch.arange(3, 9)[None]).last_hidden_state
        )
        frames = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
        assert torch.equal(made.frame_encoder(frames), real.frame_encoder(frames)), "constants are no weights"


def test_a_tied_tensor_is_one():
    networks = hollow(TINY)
    tied = next(slot for slot in slots(networks.text).values() if len(slot.names) > 1)
    assert tied.names == ("encoder.embed_tokens.weight", "shared.weight")
    assert networks.text.shared.weight is networks.text.encoder.embed_tokens.weight
    fill(networks, lambda part, name: torch.zeros(slots(networks.parts()[part])[name].shape))
    assert networks.text.shared.weight is networks.text.encoder.embed_tokens.weight


def test_shortened_networks_have_fewer_slots():
    short = replace(TINY, preview=replace(TINY.preview, layers=1))
    assert len(slots(hollow(short).preview)) < len(slots(hollow(TINY).preview))
