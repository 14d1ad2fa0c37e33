"""Gate, residual, norm and modulation in one pass, against the twin in float64 and against diffusers' layer."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

from dvgwm.kernels.modulate import compiled_modulate, modulate, plain_modulate

pytestmark = pytest.mark.torch

SHAPES = [(1, 1, 0, 64), (2, 9, 4, 192), (1, 5, 5, 100), (1, 3, 1, 640), (1, 2, 1, 1920)]
"""Batch, tokens, text tokens among them, width."""


def inputs(randn, shape, dtype, updated=True):
    batch, length, _, width = shape
    residual, update = (randn(batch, length, width, dtype=dtype) * 3 + 1 for _ in range(2))
    before, after = (randn(2, 3, width, dtype=dtype) for _ in range(2))
    return residual, update if updated else None, before, after, randn(width, dtype=dtype), randn(width, dtype=dtype)


def double(tensors):
    return [tensor if tensor is None else tensor.double() for tensor in tensors]


@pytest.mark.parametrize("updated", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity(randn, check, shape, dtype, updated):
    given = inputs(randn, shape, dtype, updated)
    made = compiled_modulate(*given, shape[2], 1e-5, False)
    reference = plain_modulate(*double(given), shape[2], 1e-5, False)
    check(made[1], reference[1], dtype)
    if updated:
        check(made[0], reference[0], dtype)
    assert [tensor.numel() for tensor in made] == [tensor.numel() for tensor in reference]
    assert (made[0].numel() > 0, made[2].numel()) == (updated, 0)


def test_strided_tokens(randn, check):
    residual, update, *rest = inputs(randn, (2, 9, 4, 192), torch.float32)
    reference = plain_modulate(*double((residual, update, *rest)), 4, 1e-5, False)
    turned = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in (residual, update))
    check(compiled_modulate(*turned, *rest, 4, 1e-5, False)[1], reference[1], torch.float32)


def test_it_is_diffusers_layer(randn, relative, device):
    normalization = pytest.importorskip("diffusers.models.normalization", reason="the export extra is not installed")
    torch.manual_seed(0)
    layer = normalization.CogVideoXLayerNormZero(32, 192).to(device)
    layer.norm.weight.data, layer.norm.bias.data = randn(192), randn(192)
    tokens, time = randn(2, 9, 192), randn(1, 32)
    with torch.no_grad():
        video, text, gate, _ = layer(tokens[:, 4:], tokens[:, :4], time)
        packed = layer.linear(layer.silu(time)).view(2, 3, 192)
        ours = modulate(tokens, None, packed, packed, layer.norm.weight, layer.norm.bias, 4, 1e-5, False)[1]
    assert relative(ours, torch.cat([text, video], 1)) < 5e-6
    assert torch.equal(packed[0, 2], gate[0, 0])


@pytest.mark.parametrize("wrong", ["text_length", "gate", "epsilon"])
def test_a_wrong_input_is_seen(randn, relative, wrong):
    """Negative control."""
    residual, update, before, after, weight, bias = inputs(randn, (2, 9, 4, 192), torch.float32)
    reference = plain_modulate(*double((residual, update, before, after, weight, bias)), 4, 1e-5, False)
    before = before * 1.001 if wrong == "gate" else before
    numbers = (5 if wrong == "text_length" else 4), (1e-2 if wrong == "epsilon" else 1e-5)
    made = compiled_modulate(residual, update, before, after, weight, bias, *numbers, False)
    assert relative(made[1], reference[1]) > 1e-4


@pytest.mark.parametrize("updated", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_8bit(randn, relative, device, shape, updated):
    """One scale a row; the numbers stand for the exact ones within FP8's 3 bits."""
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no FP8")
    given = inputs(randn, shape, torch.float32, updated)
    summed, numbers, scales = compiled_modulate(*given, shape[2], 1e-5, True)
    wanted_sum, wanted, wanted_scales = plain_modulate(*given, shape[2], 1e-5, True)
    assert summed.shape == wanted_sum.shape
    assert relative(scales, wanted_scales) < 1e-5
    differ = (numbers.float() != wanted.float()).float().mean()
    # The interpreter rounds up to a power of two wrongly (126 becomes 64).
    assert differ < (0.1 if device == "cpu" else 1e-3)
    exact = plain_modulate(*double(given), shape[2], 1e-5, False)[1]
    assert relative(wanted.double() * wanted_scales[..., None].double(), exact) < 0.04
