"""The linear codec: causal, fitted, whitened, streamed."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")

from torch.nn import functional

from dvgwm.models.codec import MOVES, LinearCodec, StreamingLinear, fit, to_patches
from dvgwm.models.networks import moving_shapes

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def clips():
    return moving_shapes(0, 12, 17, (64, 96))


def test_a_lift_enlarges_what_latents_decode_to(whole_codec):
    low, high = whole_codec(1), whole_codec(2)
    latents, first = torch.randn(1, low.channels, 1, 2, 3), torch.zeros(1, 3, 1, 8, 12)
    lifted = functional.pixel_shuffle(functional.conv2d(latents[:, :, 0], high.lift(low, 2)[..., None, None]), 2)
    made = high.decode_groups(lifted[:, :, None], torch.zeros(1, 3, 1, 16, 24))[0].transpose(0, 1)
    small = low.decode_groups(latents, first)[0].transpose(0, 1)
    for row, column in ((0, 0), (1, 2)):
        patch = small[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        larger = functional.interpolate(patch, (8, 8), mode="bilinear", align_corners=False)
        assert torch.allclose(made[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8], larger, atol=1e-4)


def psnr(a, b):
    return -10 * torch.log10(((a - b) ** 2).mean() / 4)


def test_the_linear_codec_is_causal_and_keeps_moving_shapes(clips):
    codec = fit([clips], 8, 32)
    held_out = moving_shapes(99, 4, 17, (64, 96))
    latents = codec.encode(held_out)
    assert latents.shape == (4, 32, 5, 8, 12)
    assert psnr(codec.decode(latents), held_out) > 26
    changed = held_out.clone()
    changed[:, :, 9:] = 0
    assert torch.equal(codec.encode(changed)[:, :, :3], latents[:, :, :3])
    assert torch.allclose(codec.decode(latents[:, :, :3]), codec.decode(latents)[:, :, :9])


def test_more_channels_keep_more_and_as_many_as_the_rank_keep_all(clips):
    quality = [
        psnr(fit([clips], 8, channels).decode(fit([clips], 8, channels).encode(clips)), clips) for channels in (8, 32)
    ]
    assert quality[1] > quality[0] + 3
    small = clips[:2, :, :5, :4, :4]
    exact = fit([clips[:, :, :, :8, :8]], 2, 12)
    assert torch.allclose(exact.decode(exact.encode(small))[:, :, :1], small[:, :, :1], atol=1e-4)


def moving(codec, clips):
    """The latents of a clip where something moves, N C, none of the first frame."""
    latents = codec.encode(clips)[:, :, 1:].permute(0, 2, 3, 4, 1).flatten(0, 3)
    changes = to_patches(clips[:, :, 1:] - clips[:, :, :1], 4, codec.patch).flatten(0, 3)
    return latents[changes.square().mean(1) > MOVES]


def test_channels_have_unit_variance_where_something_moves_and_fixed_signs(clips):
    codec = fit([clips], 8, 16)
    assert torch.allclose(moving(codec, clips).square().mean(0), torch.ones(16), atol=0.05)
    basis = codec.get_buffer("group_basis")
    assert (basis.gather(1, basis.abs().argmax(1, keepdim=True)) > 0).all()


def test_mild_whitening_leaves_large_channels_larger_and_decodes_the_same(clips):
    whole, mild = fit([clips], 8, 16), fit([clips], 8, 16, whiten=0.65)
    deviation = moving(mild, clips).square().mean(0).sqrt()
    assert deviation[0] > 1.3 * deviation[-1]
    assert deviation.max() <= 2.05
    assert torch.allclose(whole.decode(whole.encode(clips)), mild.decode(mild.encode(clips)), atol=1e-4)


def test_where_nothing_moves_the_latents_are_zero_and_the_frame_stays(clips):
    codec = fit([clips], 8, 16)
    still = clips[:1, :, :1].expand(-1, -1, 9, -1, -1)
    latents = codec.encode(still)
    assert not latents[:, :, 1:].any()
    frames = codec.decode(latents)
    assert torch.equal(frames[:, :, 1:], frames[:, :, :1].expand(-1, -1, 8, -1, -1))


def test_clips_may_come_one_by_one(clips):
    whole, parts = fit([clips], 8, 8), fit(clips.split(5), 8, 8)
    assert torch.allclose(whole.get_buffer("group_basis").abs(), parts.get_buffer("group_basis").abs(), atol=1e-2)
    assert torch.allclose(whole.get_buffer("group_scale"), parts.get_buffer("group_scale"), rtol=1e-3)


def test_the_linear_codec_decodes_chunk_by_chunk_as_at_once(clips):
    codec = fit([clips], 8, 16)
    latents = codec.encode(clips[:1])
    stream = StreamingLinear(codec)
    head, cache = stream(latents[:, :, :3], None)
    tail, again = stream(latents[:, :, 3:], cache)
    assert torch.allclose(torch.cat([head, tail], 2), codec.decode(latents), atol=1e-6)
    assert torch.equal(again["first"], cache["first"])
    assert stream.cache_names(16, (8, 12)) == tuple(cache)


def test_an_unfitted_codec_decodes_to_its_mean():
    assert not LinearCodec(8, 4).decode(torch.randn(1, 4, 3, 2, 2)).any()
