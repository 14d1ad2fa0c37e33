"""Attention in 16 and 8 bits against softmax in float64."""

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

from dvgwm.kernels.attention import attention, compiled_attention, launch_attention, library_attention, plain_attention
from dvgwm.kernels.attention_8bit import (
    attention_8bit,
    compiled_attention_8bit,
    launch_attention_8bit,
    plain_attention_8bit,
)
from dvgwm.kernels.attention_tma import launch_attention_tma
from dvgwm.kernels.launch import compiled
from dvgwm.kernels.qk_norm_rope import quantise_blocks, quantise_blocks_fp8, quantise_values

pytestmark = pytest.mark.torch

SHAPES = [(1, 1, 1, 64), (2, 2, 137, 64), (1, 2, 128, 64), (1, 1, 257, 128)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def softmax(query, key, value):
    scores = query.double() @ key.double().transpose(-1, -2) * query.shape[-1] ** -0.5
    return (scores.softmax(-1) @ value.double()).transpose(1, 2)


def heads(randn, shape, dtype=torch.float32):
    """Queries, keys and values as they lie in a projection: B S H D seen as B H S D."""
    batch, count, length, width = shape
    return (randn(batch, length, count, width, dtype=dtype).transpose(1, 2) for _ in range(3))


@pytest.fixture
def best(device):
    """The dtype to be exact in: the interpreter's float32, matrix units' float16."""
    return torch.float32 if device == "cpu" else torch.float16


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity(randn, check, device, shape, dtype):
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies bfloat16 matrices wrongly")
    if device == "cuda" and dtype == torch.float32:
        pytest.skip("the kernel is for 16 bits: matrix units have no float32")
    query, key, value = heads(randn, shape, dtype)
    check(compiled_attention(query, key, value, shape[-1] ** -0.5, None), softmax(query, key, value), dtype)


def test_other_lengths_of_keys_and_large_scores(randn, check, best):
    query, key, value = (randn(1, 1, count, 64) for count in (5, 70, 70))
    query, key, value = (query * 30).to(best), key.to(best), value.to(best)
    check(compiled_attention(query, key, value, 0.125, None), softmax(query, key, value), best)


def test_the_twin_is_softmax_too(randn, check, best):
    query, key, value = heads(randn, SHAPES[1], best)
    check(plain_attention(query, key, value, 0.125, None), softmax(query, key, value), best)
    for made in (attention(query, key, value, 0.125, None), library_attention(query, key, value, 0.125)):
        assert made.is_contiguous()
        check(made, softmax(query, key, value), best)


def test_a_wrong_scale_is_seen(randn, relative, best):
    """Negative control: beyond the bound of the dtype."""
    query, key, value = heads(randn, SHAPES[1], best)
    bound, scale = (1e-5, 0.1251) if best == torch.float32 else (5e-3, 0.14)
    assert relative(compiled_attention(query, key, value, scale, None), softmax(query, key, value)) > 2 * bound


def bound_of(query, key):
    """The largest possible score of these."""
    return float(query.double().norm(dim=-1).max() * key.double().norm(dim=-1).max()) * query.shape[-1] ** -0.5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [0.3, 1.0, 1.7])
def test_a_fixed_shift_gives_the_same(randn, check, device, shape, size):
    """In bfloat16 on a GPU; the interpreter has float32 for it."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    query, key, value = heads(randn, shape, dtype)
    query, key = query * size, key * size
    bound, scale = bound_of(query, key), shape[-1] ** -0.5
    launch, made = launch_attention(query, key, value, scale, bound)
    assert launch.constants["FIXED"] == (bound <= 40)
    launch.start()
    check(made, softmax(query, key, value), dtype)
    check(plain_attention(query, key, value, scale, bound), softmax(query, key, value), dtype)


@pytest.mark.filterwarnings("ignore:(invalid|divide|overflow):RuntimeWarning")
def test_a_fixed_shift_that_is_too_large_or_too_small_is_seen(randn, best):
    """Negative control: far from the scores nothing is left of a softmax: hence the limit of the bound."""
    query, key, value = heads(randn, SHAPES[1], best)
    launch, made = launch_attention(query.float(), key.float(), value.float(), 0.125, 20.0)
    for shift in (200.0, -200.0):
        replace(launch, arguments={**launch.arguments, "shift_log2": shift}).start()
        assert not made.isfinite().all()


def test_where_scores_are_large_or_unknown_the_largest_is_followed(randn):
    query, key, value = heads(randn, SHAPES[0])
    half = [tensor.half() for tensor in (query, key, value)]
    assert launch_attention(query, key, value, 0.125, 40.0)[0].constants["FIXED"]
    assert launch_attention_tma(query, key, value, 0.125, 40.0)[0].constants["FIXED"]
    for tensors, bound in (((query, key, value), 40.1), ((query, key, value), None), (half, 1.0)):
        assert not launch_attention(*tensors, 0.125, bound)[0].constants["FIXED"]
        assert not launch_attention_tma(*tensors, 0.125, bound)[0].constants["FIXED"]


def test_weights_in_bfloat16_lose_no_more_with_a_fixed_shift(randn, relative):
    """By torch's arithmetic: the interpreter's bfloat16 products are wrong. A result in bfloat16 is off by 2.3e-3 itself."""
    query, key, value = (randn(1, 1, 1200, 64).double() for _ in range(3))
    for size in (8.0, 20.0, 40.0):
        grown = query * (size / bound_of(query, key))
        scores = grown @ key.transpose(-1, -2) * 0.125
        weights = (scores - size).float().exp()
        mixed = (weights.bfloat16().double() @ value) / weights.double().sum(-1, keepdim=True)
        assert relative(mixed.transpose(1, 2), softmax(grown, key, value)) < 2.3e-3


@pytest.fixture
def attention_tma(device):
    """The form for Hopper, where it can run: its descriptors and its loop are the interpreter's, too."""
    if device == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the kernel is for Hopper")
    return compiled(launch_attention_tma)


@pytest.mark.parametrize("shape", [*SHAPES[:3], (1, 1, 256, 64), (1, 2, 300, 64)], ids=str)
def test_the_form_with_descriptors(randn, check, attention_tma, shape):
    query, key, value = heads(randn, shape, torch.float16)
    check(attention_tma(query, key, value, 0.125, None), softmax(query, key, value), torch.float16)


@pytest.mark.parametrize("shape", [SHAPES[1], (1, 2, 300, 64)], ids=str)
def test_descriptors_and_a_fixed_shift(randn, check, device, attention_tma, shape):
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    query, key, value = heads(randn, shape, dtype)
    check(attention_tma(query, key, value, 0.125, bound_of(query, key)), softmax(query, key, value), dtype)


def test_descriptors_of_other_lengths_and_of_parts_of_a_projection(randn, check, attention_tma):
    query = randn(2, 5, 3, 64, dtype=torch.float16).transpose(1, 2)
    key = randn(2, 70, 3, 3, 64, dtype=torch.float16)[:, :, 1].transpose(1, 2)
    value = randn(2, 70, 3, 64, dtype=torch.float16).transpose(1, 2)
    check(attention_tma(query, key, value, 0.125, None), softmax(query, key, value), torch.float16)
    wrong = attention_tma(query, key, value, 0.14, None)
    with pytest.raises(AssertionError):
        check(wrong, softmax(query, key, value), torch.float16)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_8bit(randn, relative, device, shape):
    """The kernel is its twin; both are within 2 % of exact attention on normal numbers."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    query, key, value = heads(randn, shape, dtype)
    scale = shape[-1] ** -0.5
    parts = (*quantise_blocks(query), *quantise_blocks(key))
    made = compiled_attention_8bit(*parts, value, None, scale)
    twin = plain_attention_8bit(*parts, value.double(), None, scale)
    assert relative(made, twin) < (1e-5 if device == "cpu" else 1e-2)
    assert relative(made, softmax(query, key, value)) < 0.02


def test_scales_are_not_rounded_to_16_bits(randn):
    x = randn(1, 1, 257, 128, dtype=torch.bfloat16)
    for ours, exact in zip(quantise_blocks(x), quantise_blocks(x.float()), strict=True):
        assert torch.equal(ours, exact)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fp8(randn, relative, device, shape):
    """Within 6 % of exact attention on normal numbers, where every weight is small and all of them count."""
    query, key, value = heads(randn, shape, torch.bfloat16)
    scale = shape[-1] ** -0.5
    parts = (*quantise_blocks_fp8(query), *quantise_blocks_fp8(key), *quantise_values(value))
    exact = softmax(query, key, value)
    assert relative(plain_attention_8bit(*parts, scale), exact) < 0.05
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no FP8")
    # The interpreter rounds up to a power of two wrongly (126 becomes 64), which adds an error of its own.
    assert relative(compiled_attention_8bit(*parts, scale), exact) < (0.06 if device == "cuda" else 0.1)


@pytest.mark.thorough
def test_fp8_over_the_refiners_keys_with_values_of_all_sizes(randn, relative, device):
    """Every block counts by its own scale, and sums over 17,776 keys keep their bits."""
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no FP8")
    query, key, value = (randn(1, 1, count, 64, dtype=torch.bfloat16) for count in (17776, 17776, 17776))
    block = torch.arange(139) % 7
    sizes = torch.exp2(block - 3.0) * torch.where(block > 3, 1.0, -1.0)
    value = (value.abs() + 0.5) * sizes.repeat_interleave(128)[:17776, None].to(value)
    parts = (*quantise_blocks_fp8(query), *quantise_blocks_fp8(key), *quantise_values(value))
    exact = softmax(query[:, :, :128], key, value)
    if device == "cpu":  # 139 times as much in the interpreter: the first block of queries stands for all
        launch, made = launch_attention_8bit(*parts, 0.125)
        replace(launch, grid=(1, 1)).start()
    else:
        made = compiled_attention_8bit(*parts, 0.125)
    assert relative(made[:, :128], exact) < 0.02, "errors of thousands of keys are averaged out, those of sums are not"
    wrong = [*parts[:-1], parts[-1].mean() + torch.zeros_like(parts[-1])]
    assert relative(plain_attention_8bit(*wrong, 0.125)[:, :128], exact) > 0.1, "control: one scale for all"


def test_smoothing_pays_where_keys_have_a_mean(randn, relative, best):
    """Keys far from zero lose their bits to the mean; any common vector leaves the softmax as it is."""
    query, key, value = heads(randn, (1, 2, 200, 64))
    key = key + 20 * randn(1, 2, 1, 64)
    exact = softmax(query, key, value)
    errors = []
    for centre in (torch.zeros_like(key[:, :, :1]), key.mean(2, keepdim=True)):
        parts = (*quantise_blocks(query), *quantise_blocks(key - centre))
        errors.append(relative(attention_8bit(*parts, value.to(best), None, 0.125), exact))
    assert errors[1] < 0.02 < 0.05 < errors[0]


def test_values_are_padded_to_whole_blocks(randn):
    values, scales = quantise_values(randn(1, 2, 37, 64))
    assert values.shape == (1, 2, 64, 128)
    assert scales.shape == (1, 2, 1)
    assert not values[..., 37:].float().any()
    assert math.isclose(values.float().abs().max(), 448.0)
