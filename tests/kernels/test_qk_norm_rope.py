"""Normalised, rotated, split queries and keys against the twin in float64 and against diffusers."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

from dvgwm.kernels.qk_norm_rope import (
    compiled_qk_norm_rope,
    compiled_qk_norm_rope_fp8,
    plain_qk_norm_rope,
    plain_qk_norm_rope_fp8,
    qk_norm_rope,
)

pytestmark = pytest.mark.torch

SHAPES = [(1, 1, 0, 1, 64), (2, 37, 5, 2, 64), (1, 130, 130, 1, 64), (1, 150, 7, 2, 128)]
"""Batch, tokens, text tokens among them, heads, width."""


def inputs(randn, shape, dtype):
    batch, length, words, heads, width = shape
    qkv = randn(batch, length, 3 * heads * width, dtype=dtype) * 2 + 1
    weights = [randn(width, dtype=dtype) for _ in range(4)]
    angles = randn(length - words, width // 2) * 3
    return qkv, *weights, angles.cos(), angles.sin()


def double(tensors):
    return [tensor.double() for tensor in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity(randn, check, shape, dtype):
    given = inputs(randn, shape, dtype)
    made = compiled_qk_norm_rope(*given, None, shape[3], 1e-6)[:2]
    for ours, reference in zip(made, plain_qk_norm_rope(*double(given), None, shape[3], 1e-6)[:2], strict=True):
        assert ours.transpose(1, 2).is_contiguous()
        check(ours, reference, dtype)


def test_strided_projection(randn, check):
    """Rows of a wider tensor, and a tensor whose channels are not neighbours."""
    qkv, *rest = inputs(randn, (2, 37, 5, 2, 64), torch.float32)
    wide = torch.cat([qkv, qkv], -1)[..., : qkv.shape[-1]]
    turned = qkv.transpose(1, 2).contiguous().transpose(1, 2)
    reference = plain_qk_norm_rope(*double((qkv, *rest)), None, 2, 1e-6)
    for given in (wide, turned):
        check(compiled_qk_norm_rope(given, *rest, None, 2, 1e-6)[1], reference[1], torch.float32)


def test_it_is_what_diffusers_does(randn, relative, device):
    embeddings = pytest.importorskip("diffusers.models.embeddings", reason="the export extra is not installed")
    qkv, *weights, cosines, sines = inputs(randn, (2, 37, 5, 2, 64), torch.float32)
    query = qkv.unflatten(-1, (3, 2, 64))[:, :, 0].transpose(1, 2)
    normed = torch.nn.functional.layer_norm(query, (64,), weights[0], weights[1], 1e-6)
    pair = cosines.repeat_interleave(2, 1), sines.repeat_interleave(2, 1)
    normed[:, :, 5:] = embeddings.apply_rotary_emb(normed[:, :, 5:], pair)
    assert relative(qk_norm_rope(qkv, *weights, cosines, sines, None, 2, 1e-6)[0], normed) < 5e-6


@pytest.mark.parametrize("wrong", ["text_length", "epsilon", "weights"])
def test_a_wrong_input_is_seen(randn, relative, wrong):
    """Negative control."""
    qkv, *weights, cosines, sines = inputs(randn, (1, 37, 5, 2, 64), torch.float32)
    reference = plain_qk_norm_rope(*double((qkv, *weights, cosines, sines)), None, 2, 1e-6)
    if wrong == "text_length":
        cosines, sines = cosines[1:], sines[1:]
    if wrong == "weights":
        weights = weights[::-1]
    made = compiled_qk_norm_rope(qkv, *weights, cosines, sines, None, 2, 1e-2 if wrong == "epsilon" else 1e-6)
    assert relative(made[1], reference[1]) > 2e-4


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_8bit(randn, relative, shape):
    """Integers and scales are the twin's, and stand for what the 16-bit form gives within half a level."""
    given = inputs(randn, shape, torch.float32)
    exact = plain_qk_norm_rope(*double(given), None, shape[3], 1e-6)
    centre = exact[1].mean(2).float()
    made = compiled_qk_norm_rope(*given, centre, shape[3], 1e-6)
    twin = plain_qk_norm_rope(*given, centre, shape[3], 1e-6)
    for ours, theirs in zip(made[2:], twin[2:], strict=True):
        assert relative(ours, theirs) < 1e-5
    for ours, theirs in zip(made[:2], twin[:2], strict=True):
        assert ours.dtype == torch.int8
        assert (ours != theirs).float().mean() < 1e-3  # a tie may round either way
    for ours, scale, wanted in ((made[0], made[2], exact[0]), (made[1], made[3], exact[1] - centre[:, :, None])):
        stood_for = ours.double() * scale.double().repeat_interleave(128, 2)[:, :, : ours.shape[2], None]
        half = scale.repeat_interleave(128, 2)[:, :, : ours.shape[2], None] * 0.501
        assert ((stood_for - wanted).abs() <= half).all()


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_fp8(randn, relative, device, shape):
    """Numbers and scales are the twin's; values, tokens last, stand for the projection's, filled with zeros to whole blocks."""
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no FP8")
    _, length, _, heads, width = shape
    given = inputs(randn, shape, torch.float32)
    centre = plain_qk_norm_rope(*double(given), None, heads, 1e-6)[1].mean(2).float()
    made = compiled_qk_norm_rope_fp8(*given, centre, heads, 1e-6)
    twin = plain_qk_norm_rope_fp8(*given, centre, heads, 1e-6)
    for ours, theirs in zip(made, twin, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    for index in (2, 3, 5):
        assert relative(made[index], twin[index]) < 1e-5
    for index in (0, 1, 4):
        # The interpreter rounds up to a power of two wrongly, which halves one number in sixteen or so.
        wrong = (made[index].float() - twin[index].float()).abs() > twin[index].float().abs() * 0.1
        assert wrong.float().mean() < (1e-3 if device == "cuda" else 0.08)
    value = given[0].unflatten(-1, (3, heads, width))[:, :, 2].transpose(1, 2)
    stood_for = made[4].float() * made[5].repeat_interleave(128, 2)[:, :, None]
    assert not stood_for[..., length:].any()
    assert relative(stood_for[..., :length].transpose(2, 3), value) < (0.04 if device == "cuda" else 0.15)
    exactly = twin[4].float() * twin[5].repeat_interleave(128, 2)[:, :, None]
    assert relative(exactly[..., :length].transpose(2, 3), value) < 0.04
