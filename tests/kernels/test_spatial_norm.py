"""The VAE's norm, activation and causal padding in one operator, against diffusers' formula in float64."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is not installed")

from torch.nn import functional

from dvgwm.kernels import spatial_norm as module
from dvgwm.kernels.spatial_norm import compiled_spatial_norm, plain_spatial_norm, spatial_norm

pytestmark = pytest.mark.torch

EPS = 1e-6
LAYOUT = torch.channels_last_3d


def inputs(channels, size, latent, cached=False, dtype=torch.float32, mean=0.0, seed=0):
    """f, weight, bias, y, b and cache."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=g)

    f = (draw(1, channels, *size) * (1 + torch.arange(channels).view(-1, 1, 1, 1) / channels) + mean).to(dtype)
    y, b = draw(1, channels, *latent).to(dtype), draw(1, channels, *latent).to(dtype)
    cache = draw(1, channels, 2, *size[1:]).to(dtype) if cached else None
    weight, bias = (1 + 0.1 * draw(channels)).to(dtype), (0.1 * draw(channels)).to(dtype)
    f, y, b, cache = (x if x is None else x.to(DEVICE).contiguous(memory_format=LAYOUT) for x in (f, y, b, cache))
    return f, weight.to(DEVICE), bias.to(DEVICE), y, b, cache


def widened(arguments):
    return [x.double() if isinstance(x, torch.Tensor) else x for x in arguments]


def worst(got, wanted):
    """The largest error, in the largest wanted value."""
    return ((got.double() - wanted).abs().max() / wanted.abs().max()).item()


def apart(got, wanted):
    return ((got.double() - wanted).norm() / wanted.norm()).item()


SIZES = [  # channels, groups, T H W, t h w
    (8, 2, (1, 4, 6), (1, 2, 3)),
    (8, 2, (3, 4, 6), (3, 4, 6)),
    (16, 4, (9, 6, 10), (3, 3, 5)),
    (16, 4, (8, 6, 10), (2, 3, 5)),
    (24, 2, (5, 7, 9), (3, 3, 4)),
    (6, 3, (4, 5, 3), (2, 2, 2)),
    (12, 12, (2, 3, 1), (1, 1, 1)),
    (128, 32, (5, 9, 11), (3, 2, 3)),
    (7, 1, (7, 1, 13), (4, 1, 5)),
]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("channels", "groups", "size", "latent"), SIZES)
def test_the_kernel_is_the_formula_in_float32(channels, groups, size, latent, cached):
    arguments = inputs(channels, size, latent, cached)
    got = compiled_spatial_norm(*arguments, groups, EPS)
    assert got.shape == (1, channels, size[0] + 2, *size[1:])
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=LAYOUT)
    assert worst(got, plain_spatial_norm(*widened(arguments), groups, EPS)) < 1e-5


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 5e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("cached", [False, True])
def test_the_kernel_is_the_formula_in_half_precision(dtype, limit, cached):
    arguments = inputs(16, (9, 6, 10), (3, 3, 5), cached, dtype)
    got = compiled_spatial_norm(*arguments, 4, EPS)
    assert got.dtype == dtype
    wanted = plain_spatial_norm(*widened(arguments), 4, EPS)
    assert apart(got, wanted) < limit
    # What the inputs' own rounding leaves is the result's rounding alone.
    assert apart(got, wanted) < torch.finfo(dtype).eps


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_the_twin_is_diffusers_module(frames):
    """Odd numbers of frames give the first latent frame to the first frame alone."""
    upstream = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl_cogvideox")
    torch.manual_seed(0)
    norm = upstream.CogVideoXSpatialNorm3D(8, 4, groups=2).double()
    torch.nn.init.normal_(norm.norm_layer.weight)
    torch.nn.init.normal_(norm.norm_layer.bias)
    f = torch.randn(1, 8, frames, 6, 10, dtype=torch.float64)
    zq = torch.randn(1, 4, max(2, (frames + 1) // 2), 3, 5, dtype=torch.float64)
    wanted, _ = norm(f, zq)
    layer, (y, b) = norm.norm_layer, (c.conv(zq) for c in (norm.conv_y, norm.conv_b))
    got = plain_spatial_norm(f, layer.weight, layer.bias, y, b, None, layer.num_groups, layer.eps)
    assert worst(got[:, :, 2:], functional.silu(wanted)) < 1e-12
    for pad in (0, 1):
        assert torch.equal(got[:, :, pad], got[:, :, 2])


def test_the_first_frames_are_the_cache_bit_for_bit_and_the_last_ones_the_next():
    arguments = inputs(8, (4, 5, 7), (2, 3, 4), cached=True)
    got = compiled_spatial_norm(*arguments, 2, EPS)
    assert torch.equal(got[:, :, :2], arguments[-1])
    following = compiled_spatial_norm(*arguments[:-1], got[:, :, -2:], 2, EPS)  # a view with the whole result's strides
    assert torch.equal(following[:, :, :2], got[:, :, -2:])
    assert torch.equal(following[:, :, 2:], got[:, :, 2:])
    alone = compiled_spatial_norm(*arguments[:-1], None, 2, EPS)
    assert torch.equal(alone[:, :, 2:], got[:, :, 2:])
    assert torch.equal(alone[:, :, :2], alone[:, :, 2:3].expand(-1, -1, 2, -1, -1))


def test_a_mean_of_a_hundred_spreads_takes_no_digits():
    arguments = inputs(8, (6, 40, 50), (3, 5, 5), mean=1000.0)
    wanted = plain_spatial_norm(*widened(arguments), 2, EPS)
    assert worst(compiled_spatial_norm(*arguments, 2, EPS), wanted) < 1e-4  # float32 has 6e-5 at 1000
    arguments = inputs(8, (6, 40, 50), (3, 5, 5), mean=100.0)
    wanted = plain_spatial_norm(*widened(arguments), 2, EPS)
    assert worst(compiled_spatial_norm(*arguments, 2, EPS), wanted) < 1e-5
    f = arguments[0].unflatten(1, (2, 4))
    naive = f.square().mean((2, 3, 4, 5)) - f.mean((2, 3, 4, 5)).square()
    exact = f.double().var((2, 3, 4, 5), correction=0)
    assert ((naive - exact).abs() / exact).max() > 1e-4, "the case is too easy: sums of squares do as well"


def test_an_outlier_in_front_of_each_part_takes_no_digits():
    """What the sums are shifted by is an element of the data: a far one must cost nothing."""
    arguments = inputs(8, (4, 16, 16), (2, 4, 4))
    arguments[0][:, :, 0, 0, 0] = 3e3
    wanted = plain_spatial_norm(*widened(arguments), 2, EPS)
    assert worst(compiled_spatial_norm(*arguments, 2, EPS), wanted) < 1e-5


@pytest.mark.parametrize("programs", [1, 3, 1024])
def test_moments_of_many_parts_and_many_steps_are_the_same(monkeypatch, programs):
    """Full size videos take all 1024 parts and several steps in each; here either is forced."""
    monkeypatch.setattr(module, "PROGRAMS", programs)
    monkeypatch.setattr(module, "MOMENTS_TILE", 64)
    monkeypatch.setattr(module, "TILE", 64)
    monkeypatch.setattr(module, "MERGE_TILE", 16)
    arguments = inputs(8, (5, 7, 9), (3, 3, 4), mean=100.0)
    wanted = plain_spatial_norm(*widened(arguments), 2, EPS)
    assert worst(compiled_spatial_norm(*arguments, 2, EPS), wanted) < 1e-5


def test_strided_inputs_are_taken_as_they_are_meant():
    arguments = inputs(8, (4, 6, 5), (2, 3, 5), cached=True)
    wanted = compiled_spatial_norm(*arguments, 2, EPS)
    plain = [x.contiguous() for x in arguments]
    assert torch.equal(compiled_spatial_norm(*plain, 2, EPS), wanted)
    doubled = [x.repeat_interleave(2, -1)[..., ::2] for x in arguments]
    assert torch.equal(compiled_spatial_norm(*doubled, 2, EPS), wanted)


def test_the_result_is_the_same_every_time():
    arguments = inputs(16, (9, 6, 10), (3, 3, 5))
    first = compiled_spatial_norm(*arguments, 4, EPS)
    assert all(torch.equal(compiled_spatial_norm(*arguments, 4, EPS), first) for _ in range(2))


def test_nothing_finite_is_invented():
    arguments = inputs(8, (2, 4, 4), (2, 2, 2))
    arguments[0][0, 0, 0, 0, 0] = float("nan")
    got = compiled_spatial_norm(*arguments, 2, EPS)
    assert got[:, :4].isnan().all()
    assert got[:, 4:].isfinite().all()
    constant = (torch.full_like(arguments[0], 7.0), *arguments[1:])
    got = compiled_spatial_norm(*constant, 2, EPS)
    assert worst(got, plain_spatial_norm(*widened(constant), 2, EPS)) < 1e-5


def test_a_wrong_kernel_is_seen():
    """Negative control: maps in each other's place, one frame to the wrong latent frame, a spread half a percent off."""
    f, weight, bias, y, b, _ = inputs(16, (9, 6, 10), (3, 3, 5))
    wanted = plain_spatial_norm(*widened((f, weight, bias, y, b, None)), 4, EPS)
    got = compiled_spatial_norm(f, weight, bias, b, y, None, 4, EPS)
    assert worst(got, wanted) > 1e-2
    got = compiled_spatial_norm(f, weight, bias, y[:, :, [0, 0, 2]], b[:, :, [0, 0, 2]], None, 4, EPS)
    assert worst(got, wanted) > 1e-2
    assert worst(compiled_spatial_norm(f, weight * 1.005, bias, y, b, None, 4, EPS), wanted) > 1e-4


def test_the_operator_has_a_schema_and_shapes_without_values():
    arguments = inputs(8, (3, 4, 6), (3, 2, 3), cached=True)
    got = spatial_norm(*arguments, 2, EPS)
    assert torch.equal(got, plain_spatial_norm(*arguments, 2, EPS))
    meta = spatial_norm(*(x.to("meta") for x in arguments), 2, EPS)
    assert (meta.shape, meta.dtype, meta.stride()) == (got.shape, got.dtype, got.stride())
    torch.library.opcheck(spatial_norm, (*arguments, 2, EPS), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: [a[0].repeat(2, 1, 1, 1, 1), *a[1:]], "one video at a time"),
        (lambda a: [a[0][0], *a[1:]], "one video at a time"),
        (lambda a: [a[0], a[1][:4], *a[2:]], "weights and biases"),
        (lambda a: [*a[:3], a[3][:, :4], *a[4:]], "wanted y and b"),
        (lambda a: [*a[:3], a[3][:, :, :1], a[4][:, :, :1], a[5]], "two latent frames"),
        (lambda a: [*a[:5], a[5][:, :, :1]], "wanted a cache"),
    ],
)
@pytest.mark.parametrize("function", [plain_spatial_norm, compiled_spatial_norm])
def test_other_shapes_are_refused(function, change, message):
    with pytest.raises(ValueError, match=message):
        function(*change(list(inputs(8, (3, 4, 6), (3, 2, 3), cached=True))), 2, EPS)
    with pytest.raises(ValueError, match="3 groups"):
        function(*inputs(8, (3, 4, 6), (3, 2, 3), cached=True), 3, EPS)
