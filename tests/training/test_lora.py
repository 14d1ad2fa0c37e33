"""What of a transformer trains: adapters, and blocks computed twice."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("peft", reason="the train extra is not installed")
pytest.importorskip("pyarrow", reason="the train extra is not installed")


from dvgwm.models.networks import build, parameters
from dvgwm.models.presets import preset
from dvgwm.training.config import read_run
from dvgwm.training.lora import prepared

from .fitting import seeded

pytestmark = pytest.mark.torch


def test_lora_trains_the_papers_adapters_alone():
    size = preset("dvgwm_5b")
    part = read_run("dvgwm_5b").preview
    assert (part.lora_rank, part.learning_rate, part.batch) == (128, 5e-4, 4)
    network = prepared(build(size, device="meta").preview, part)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert trained / 1e6 == pytest.approx(501, abs=3)
    assert all("lora" in name for name, p in network.named_parameters() if p.requires_grad)
    whole = prepared(build(preset("test_tiny"), 0).preview, read_run("a1_tiny").preview)
    assert sum(p.numel() for p in whole.parameters() if p.requires_grad) == parameters(whole)


def test_adapters_change_nothing_until_they_are_trained():
    size = preset("test_tiny")
    network, again = (build(size, 0).preview for _ in range(2))
    adapted = prepared(again, replace(read_run("a1_tiny").preview, lora_rank=4))
    inputs = {
        "hidden_states": torch.randn(1, 3, 8, 4, 6, generator=seeded()),
        "encoder_hidden_states": torch.randn(1, size.text.max_tokens, 16, generator=seeded()),
        "timestep": torch.tensor([5.0]),
        "image_rotary_emb": (torch.ones(18, 64), torch.zeros(18, 64)),
        "return_dict": False,
    }
    with torch.no_grad():
        assert torch.allclose(network(**inputs)[0], adapted(**inputs)[0], atol=1e-6)


@pytest.mark.parametrize("rank", [0, 4])
def test_gradient_checkpointing_computes_blocks_twice_and_gives_the_same_gradients(rank):
    part, size, made = replace(read_run("a1_tiny").preview, lora_rank=rank), preset("test_tiny"), []
    for checkpointed in (False, True):
        torch.manual_seed(0)  # the adapters' weights
        network = prepared(build(size, 0).preview, replace(part, gradient_checkpointing=checkpointed)).train()
        calls = []
        network.get_submodule("transformer_blocks.0").register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)  # zeros at first: no gradient would reach the other factor
        inputs = {
            "hidden_states": torch.randn(1, 3, 8, 4, 6, generator=seeded(), requires_grad=True),
            "encoder_hidden_states": torch.randn(1, size.text.max_tokens, 16, generator=seeded()),
            "timestep": torch.tensor([5.0]),
            "image_rotary_emb": (torch.ones(18, 64), torch.zeros(18, 64)),
            "return_dict": False,
        }
        network(**inputs)[0].square().mean().backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.requires_grad and p.grad is not None}
        assert len(calls) == 1 + checkpointed
        made.append(gradients)
    assert made[0].keys() == made[1].keys()
    assert any(gradient.abs().max() > 0 for gradient in made[0].values())
    assert all(torch.allclose(made[0][name], made[1][name], atol=1e-7) for name in made[0])
