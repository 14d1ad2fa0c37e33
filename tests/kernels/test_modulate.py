"""Gate, residual, norm and modulation in one pass, against the twin in float64 and against diffusers' layer."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

from dvgwm.kernels.modulate import (
    compiled_modulate,
    compiled_modulate_8bit,
    compiled_modulate_first,
    compiled_modulate_first_8bit,
    modulate_first,
    plain_modulate,
    plain_modulate_8bit,
    plain_modulate_first,
    plain_modulate_first_8bit,
)

pytestmark = pytest.mark.torch

SHAPES = [(1, 1, 0, 64), (2, 9, 4, 192), (1, 5, 5, 100)]
"""Batch, tokens, text tokens among them, width."""


def inputs(randn, shape, dtype):
    batch, length, _, width = shape
    residual, update = (randn(batch, length, width, dtype=dtype) * 3 + 1 for _ in range(2))
    before, after = (randn(2, 3, width, dtype=dtype) for _ in range(2))
    return residual, update, before, after, randn(width, dtype=dtype), randn(width, dtype=dtype)


def double(tensors):
    return [tensor.double() for tensor in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity(randn, check, shape, dtype):
    given = inputs(randn, shape, dtype)
    made = compiled_modulate(*given, shape[2], 1e-5)
    for ours, reference in zip(made, plain_modulate(*double(given), shape[2], 1e-5), strict=True):
        check(ours, reference, dtype)
    first = [given[0], *given[3:]]
    reference = plain_modulate_first(*double(first), shape[2], 1e-5)
    check(compiled_modulate_first(*first, shape[2], 1e-5), reference, dtype)


def test_strided_tokens(randn, check):
    residual, update, *rest = inputs(randn, (2, 9, 4, 192), torch.float32)
    reference = plain_modulate(*double((residual, update, *rest)), 4, 1e-5)
    turned = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in (residual, update))
    check(compiled_modulate(*turned, *rest, 4, 1e-5)[1], reference[1], torch.float32)


def test_it_is_diffusers_layer(randn, relative, device):
    normalization = pytest.importorskip("diffusers.models.normalization", reason="the export extra is not installed")
    torch.manual_seed(0)
    layer = normalization.CogVideoXLayerNormZero(32, 192).to(device)
    layer.norm.weight.data, layer.norm.bias.data = randn(192), randn(192)
    tokens, time = randn(2, 9, 192), randn(1, 32)
    with torch.no_grad():
        video, text, gate, _ = layer(tokens[:, 4:], tokens[:, :4], time)
        packed = layer.linear(layer.silu(time)).view(2, 3, 192)
        ours = modulate_first(tokens, packed, layer.norm.weight, layer.norm.bias, 4, 1e-5)
    assert relative(ours, torch.cat([text, video], 1)) < 5e-6
    assert torch.equal(packed[0, 2], gate[0, 0])


@pytest.mark.parametrize("wrong", ["words", "gate", "epsilon"])
def test_a_wrong_input_is_seen(randn, relative, wrong):
    """Negative control."""
    residual, update, before, after, weight, bias = inputs(randn, (2, 9, 4, 192), torch.float32)
    reference = plain_modulate(*double((residual, update, before, after, weight, bias)), 4, 1e-5)
    before = before * 1.001 if wrong == "gate" else before
    numbers = (5 if wrong == "words" else 4), (1e-2 if wrong == "epsilon" else 1e-5)
    made = compiled_modulate(residual, update, before, after, weight, bias, *numbers)
    assert relative(made[1], reference[1]) > 1e-4


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_8bit(randn, relative, device, shape):
    """One scale a row; the numbers stand for the exact ones within FP8's 3 bits."""
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no FP8")
    given = inputs(randn, shape, torch.float32)
    first = [given[0], *given[3:]]
    pairs = (
        (compiled_modulate_8bit(*given, shape[2], 1e-5)[1:], plain_modulate_8bit(*given, shape[2], 1e-5)[1:]),
        (compiled_modulate_first_8bit(*first, shape[2], 1e-5), plain_modulate_first_8bit(*first, shape[2], 1e-5)),
    )
    for (numbers, scales), (wanted, wanted_scales) in pairs:
        assert relative(scales, wanted_scales) < 1e-5
        differ = (numbers.float() != wanted.float()).float().mean()
        # The interpreter rounds up to a power of two wrongly (126 becomes 64).
        assert differ < (0.1 if device == "cpu" else 1e-3)
    exact = plain_modulate(*double(given), shape[2], 1e-5)[1]
    numbers, scales = plain_modulate_8bit(*given, shape[2], 1e-5)[1:]
    assert relative(numbers.double() * scales[..., None].double(), exact) < 0.04
