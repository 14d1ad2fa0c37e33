"""The networks: sizes, parts, and what each has to keep."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")

from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from torch.nn import functional

from dvgwm.export.onnx_attention import OperatorAttention
from dvgwm.models.codec import MOVES, LinearCodec, StreamingLinear, fit, to_patches
from dvgwm.models.denoisers import DenoiseEngine, denoise_engine, preview_signal, rescaling
from dvgwm.models.dit import JointAttention, rotary_positions
from dvgwm.models.engines import DecodeEngine, EncodeImageEngine, streaming
from dvgwm.models.networks import build, moving_shapes, parameters
from dvgwm.models.policy import SpatialSoftmax
from dvgwm.models.presets import PRESETS, DiT, LinearCodecSize, preset
from dvgwm.models.waypoints import Waypoints, along, path_channels
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def tiny():
    return build(preset("test_tiny"), 0)


@pytest.fixture(scope="module")
def clips():
    return moving_shapes(0, 12, 17, (64, 96))


@pytest.mark.parametrize(
    ("name", "part", "millions"),
    [
        ("dvgwm_5b", "preview", 5570.3),
        ("dvgwm_5b", "refiner", 1693.9),
        ("dvgwm_5b", "text", 4762.3),
        ("dvgwm_5b", "codec", 215.6),
        ("dvgwm_5b", "frame_encoder", 11.18),
        ("cogvideox_5b", "preview", 5570.3),
    ],
)
def test_full_size_networks_have_the_papers_parameters(name, part, millions):
    """5.570 B and 1.694 B, within 0.1 %; the refiner's first-frame channels add 0.12 M to the stock 2B."""
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
    assert set(PRESETS) == {"a1_tiny", "dvgwm_5b", "cogvideox_5b", "test_tiny"}


def test_seeds_decide_the_weights():
    one, same, other = (build(preset("test_tiny"), seed).preview.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_our_attention_is_diffusers(tiny):
    size = preset("test_tiny")
    engine = DenoiseEngine(tiny.preview, size.preview, size.grid(size.low), size.latent_frames, flow=False)
    inputs = (torch.randn(1, 13, 4, 4, 6), torch.tensor([321.0]), torch.randn(2, 48, 16), torch.randn(1, 1, 4, 4, 6))
    ours = engine(*inputs)
    tiny.preview.set_attn_processor(CogVideoXAttnProcessor2_0())
    theirs = engine(*inputs)
    tiny.preview.set_attn_processor(OperatorAttention())
    exported = engine(*inputs)
    tiny.preview.set_attn_processor(JointAttention())
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(exported, theirs, atol=1e-6)
    engine.cosines, engine.sines = torch.ones_like(engine.cosines), torch.zeros_like(engine.sines)
    assert (engine(*inputs) - ours).abs().max() > 1e-4, "positions matter"


def test_flow_time_runs_against_the_noise_index(tiny):
    size = preset("test_tiny")
    grid = size.grid(size.low)
    flow = DenoiseEngine(tiny.preview, size.preview, grid, 13, flow=True)
    plain = DenoiseEngine(tiny.preview, size.preview, grid, 13, flow=False)
    state, text, image = torch.randn(1, 13, 4, 4, 6), torch.randn(1, 48, 16), torch.randn(1, 1, 4, 4, 6)
    assert torch.allclose(
        flow(state, torch.tensor([0.25]), text, image), plain(state, torch.tensor([750.0]), text, image), atol=1e-6
    )


def test_the_first_frame_conditions_the_preview(tiny):
    size = preset("test_tiny")
    engine = DenoiseEngine(tiny.preview, size.preview, size.grid(size.low), 13, flow=False)
    state, text, image = torch.randn(1, 13, 4, 4, 6), torch.randn(1, 48, 16), torch.randn(1, 1, 4, 4, 6)
    time = torch.tensor([500.0])
    assert (engine(state, time, text, image) - engine(state, time, text, -image)).abs().max() > 1e-3


class Told(torch.nn.Module):
    """A network that knows what is clean, but for the first frame."""

    def __init__(self, clean):
        super().__init__()
        self.clean, self.seen, self.texts = clean, [], []

    def forward(self, hidden_states, encoder_hidden_states, **_):
        self.seen.append(hidden_states)
        self.texts.append(encoder_hidden_states)
        wrong = torch.full_like(self.clean[:, :1], 9.0)
        return (torch.cat([wrong, self.clean[:, 1:]], 1).expand(len(encoder_hidden_states), -1, -1, -1, -1),)


@pytest.mark.parametrize("flow", [False, True])
def test_clean_latents_make_the_velocity_that_they_are_of(flow):
    told = replace(preset("test_tiny").preview, predicts="clean")
    size = replace(preset("test_tiny"), preview=told, refiner=told, refiner_sees_preview=False)
    clean, noise = (torch.randn(1, 13, 4, *size.grid(size.high if flow else size.low)) for _ in range(2))
    network, text = Told(clean), torch.randn(2, 48, 16)
    engine = denoise_engine(network, size, flow)
    if flow:
        tau = torch.tensor([0.3])
        state, wanted = 0.7 * noise + 0.3 * clean, clean - noise
    else:
        tau = torch.tensor([321.0])
        alpha, sigma = (table[321].float() for table in preview_signal(1.0))
        state, wanted = alpha * clean + sigma * noise, alpha * noise - sigma * clean
    made = engine(state, tau, text, clean[:, :1])
    assert made.shape == (2, *wanted.shape[1:])
    assert torch.allclose(made, wanted.expand(2, -1, -1, -1, -1), atol=1e-4)
    shown = network.seen[0][:1, :, 4:]
    assert torch.equal(shown, clean[:, :1].expand_as(clean)), "the first frame is seen beside every latent frame"
    other = engine(state, tau, text, clean[:, :1] + 1.0)
    assert not torch.allclose(made[:, 0], other[:, 0], atol=1e-2)
    assert torch.equal(made[:, 1:], other[:, 1:])


def whole_codec(seed, patch=4):
    """A linear codec that loses nothing: as many channels as a group's patch has pixels."""
    pixels = 3 * 4 * patch * patch
    codec = LinearCodec(patch, pixels)
    generator = torch.Generator().manual_seed(seed)
    codec.group_basis.copy_(torch.linalg.qr(torch.randn(pixels, pixels, generator=generator))[0])
    codec.group_scale.copy_(torch.rand(pixels, generator=generator) + 0.5)
    return codec


def test_a_lift_enlarges_what_latents_decode_to():
    low, high = whole_codec(1), whole_codec(2)
    latents, first = torch.randn(1, low.channels, 1, 2, 3), torch.zeros(1, 3, 1, 8, 12)
    lifted = functional.pixel_shuffle(functional.conv2d(latents[:, :, 0], high.lift(low, 2)[..., None, None]), 2)
    made = high.decode_groups(lifted[:, :, None], torch.zeros(1, 3, 1, 16, 24))[0].transpose(0, 1)
    small = low.decode_groups(latents, first)[0].transpose(0, 1)
    for row, column in ((0, 0), (1, 2)):
        patch = small[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        larger = functional.interpolate(patch, (8, 8), mode="bilinear", align_corners=False)
        assert torch.allclose(made[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8], larger, atol=1e-4)


def test_a_refiner_that_tells_nothing_leaves_the_preview_as_it_is():
    told = replace(preset("test_tiny").preview, predicts="clean", margin=2)
    size = replace(preset("test_tiny"), refiner=told, low=(16, 40), high=(32, 80), codec=LinearCodecSize(4, 192))
    networks = replace(build(preset("test_tiny"), 0), low_codec=whole_codec(1), codec=whole_codec(2))
    state, image = torch.randn(1, 13, 192, 8, 20), torch.randn(1, 1, 192, 8, 20)
    low, tau, text = torch.randn(1, 13, 192, 4, 10), torch.tensor([0.75]), torch.randn(2, 48, 16)
    network = Told(torch.zeros(1, 13, 192, 8, 16))
    engine = denoise_engine(network, size, True, networks)
    end = state + (1.0 - tau) * engine(state, tau, text, image, low)
    lifted = engine.lifted(low[:, 1:])
    assert torch.allclose(end, torch.cat([image, lifted], 1).expand(2, -1, -1, -1, -1), atol=1e-4)
    assert torch.equal(network.seen[0][:1, 1:, 2 * 192 :], lifted[..., 2:-2]), "what is lifted is seen"
    more = torch.randn(1, 13, 192, 8, 16)
    added = state + (1.0 - tau) * denoise_engine(Told(more), size, True, networks)(state, tau, text, image, low)
    assert torch.allclose((added - end)[:1, 1:, ..., 2:-2], more[:, 1:], atol=1e-4)


def squares(count, generator):
    """Grey frames with a dark square of 6 pixels each, and where its middle is, in [-1, 1]."""
    frames, places = torch.full((count, 3, 32, 48), 0.6), torch.rand(count, 2, generator=generator)
    for frame, place in zip(frames, places, strict=True):
        row, column = (int(at * (size - 6)) for at, size in zip(place, (32, 48), strict=True))
        frame[:, row : row + 6, column : column + 6] = -0.8
        place[0], place[1] = (row + 2.5) / 31 * 2 - 1, (column + 2.5) / 47 * 2 - 1
    return frames, places


def test_waypoints_tell_where_things_are_to_less_than_a_pixel_and_heed_the_text():
    torch.manual_seed(0)
    network = Waypoints(8, 16, frames=2, dof=2)
    texts = torch.randn(2, 48, 16)  # one says "go there", the other "go to the opposite place"
    optimiser, generator = torch.optim.Adam(network.parameters(), 5e-3), torch.Generator().manual_seed(0)

    def missed(count):
        frames, places = squares(count, generator)
        said = torch.randint(2, (count,), generator=generator)
        wanted = places * (1.0 - 2.0 * said[:, None])
        return network(frames, texts[said])[:, 1] - wanted

    for _ in range(300):
        loss = missed(16).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        pixels = missed(64).abs().mean(0) * torch.tensor([31 / 2, 47 / 2])
    assert pixels.max() < 1.0


def test_a_preview_draws_along_the_path_that_is_told_or_given():
    told = replace(preset("test_tiny").preview, predicts="clean", waypoints=2)
    size = replace(preset("test_tiny"), preview=told, refiner=None, codec=LinearCodecSize(8, 4))
    networks = build(size, 0)
    networks.low_codec.first_basis.normal_()
    clean, text = torch.randn(1, 13, 4, *size.grid(size.low)), torch.randn(2, 48, 16)
    network = Told(clean)
    engine = denoise_engine(network, size, False, networks)
    inputs = torch.randn(clean.shape), torch.tensor([999.0]), text
    for image in (clean[:, :1], clean[:, :1] + 1.0):
        engine(*inputs, image)
    first, other = network.seen
    assert first.shape == (2, 13, networks.preview.config.in_channels, 4, 6)
    assert torch.equal(first[:, :, :4], inputs[0].expand(2, -1, -1, -1, -1))
    frame = networks.low_codec.decode_first(clean[:, :1].transpose(1, 2))[:, :, 0]
    poses = networks.waypoints(frame.expand(2, -1, -1, -1), text).clamp(-1.0, 1.0)
    assert not torch.allclose(poses[0], poses[1]), "every branch's text has a path"
    assert torch.allclose(first[:, 5, 8 : 8 + 28, 1, 2], poses[:, 16:20].flatten(1), atol=1e-6)
    assert torch.allclose(first[:, 0, 8 : 8 + 28, 1, 2], poses[:, :4].flatten(1), atol=1e-6)
    assert not torch.allclose(first[:, :, 8:], other[:, :, 8:], atol=1e-4)
    given = torch.rand(2, 48, 7) * 2 - 1
    engine(*inputs, clean[:, :1], given)
    assert torch.allclose(network.seen[2][:, 5, 8 : 8 + 28, 1, 2], given[:, 16:20].flatten(1))


def test_every_latent_is_told_where_it_is():
    told = along(torch.zeros(1, 8, 7), 5, 3)
    assert told.shape == (1, 3, path_channels(7), 5, 3)
    where = told[0, :, 7 * 28 : 7 * 28 + 3]
    assert where[:, :, 2, 1].tolist() == [[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert where[1, :, 4, 2].tolist() == [0.0, 1.0, 1.0]
    places = told[0, 0, 7 * 28 :].flatten(1).T
    assert torch.cdist(places, places).fill_diagonal_(9.0).min() > 0.1, "no two latents of a frame are told the same"


def test_a_margin_is_left_out_and_stays_still():
    told = replace(preset("test_tiny").preview, predicts="clean", margin=2)
    size = replace(preset("test_tiny"), preview=told, low=(32, 80))
    rows, columns = size.grid(size.low)
    clean, noise, text = (
        torch.randn(1, 13, 4, rows, columns),
        torch.randn(1, 13, 4, rows, columns),
        torch.zeros(1, 48, 16),
    )
    network = Told(clean[..., 2:-2])
    engine = denoise_engine(network, size, flow=False)
    made = engine(noise, torch.tensor([999.0]), text, clean[:, :1])
    assert network.seen[0].shape[-1] == columns - 4
    # From pure noise the velocity is minus the clean latents.
    assert torch.allclose(made[:, 1:, :, :, 2:-2], -clean[:, 1:, :, :, 2:-2], atol=1e-4)
    assert made[:, 1:, :, :, :2].abs().max() == made[:, 1:, :, :, -2:].abs().max() == 0.0
    assert torch.allclose(made[:, :1], -clean[:, :1], atol=1e-4)
    whole = denoise_engine(network, replace(size, preview=replace(told, margin=0)), flow=False)
    tokens = torch.arange(13 * rows // 2 * columns // 2).view(13, rows // 2, columns // 2)[:, :, 1:-1].flatten()
    assert torch.equal(engine.cosines, whole.cosines[tokens]), "a token's position is that in the whole picture"


def test_a_sampler_ends_at_the_clean_latents_that_a_network_tells():
    told = replace(preset("test_tiny").preview, predicts="clean")
    size = replace(preset("test_tiny"), preview=told)
    clean, text = torch.randn(1, 13, 4, *size.grid(size.low)), torch.randn(1, 48, 16)
    engine = denoise_engine(Told(clean), size, flow=False)
    for kind in ("ddim_v", "dpmpp_2m"):
        state = history = torch.randn(clean.shape)
        for step in build_sampler(SamplerSpec(kind, 5)).steps:
            v = engine(state, torch.tensor([step.time]), text, clean[:, :1])
            moved = step.a * state + step.b * v + step.c * history
            state, history = moved, step.p * state + step.q * v
        assert torch.allclose(state, clean, atol=1e-4)


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


def test_rescaling_from_the_5b_to_the_2b_is_1_64655():
    size = preset("dvgwm_5b")
    scale, shift = rescaling(size.preview_scaling, size.refiner_scaling)
    assert scale[0] == pytest.approx(1.15258426 / 0.7)
    assert shift == (0.0,)


def test_streaming_decode_is_diffusers_full_decode_and_stops_early_exactly(tiny):
    size = preset("test_tiny")
    codec, grid = streaming(tiny.codec), size.grid(size.high)
    names = codec.cache_names(size.codec.channels, grid)
    first, following = (DecodeEngine(codec, size.refiner_scaling, names, k, quantise=False) for k in (True, False))
    latents = torch.randn(1, 13, size.codec.channels, *grid, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        full = tiny.codec.decode((latents / 1.15258426).transpose(1, 2)).sample
        full = full.mul(0.5).add(0.5).clamp(0, 1).permute(0, 2, 3, 4, 1)

        def stream(count):
            made, *cache = first(latents[:, :3])
            frames = [made]
            for begin in range(3, count, 2):
                made, *cache = following(latents[:, begin : begin + 2], *cache)
                frames.append(made)
            return torch.cat(frames, 1)

        whole = stream(13)
        assert (whole - full).abs().max() < 1e-5
        assert torch.equal(stream(5), whole[:, :17])
        forgetful = torch.cat([whole[:, :9], first(latents[:, 3:6])[0]], 1)
    assert (forgetful[:, 9:17] - whole[:, 9:17]).abs().max() > 1e-3, "the cache matters"


def test_the_vaes_encoder_engine_gives_the_posteriors_mode(tiny):
    image = torch.randint(0, 256, (1, 32, 48, 3), dtype=torch.uint8)
    with torch.no_grad():
        made = EncodeImageEngine(tiny.codec)(image)
        frame = image.permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
        wanted = tiny.codec.encode(frame).latent_dist.mode().transpose(1, 2)
    assert torch.allclose(made, wanted, atol=1e-5)


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


def test_policy_features_say_where_things_are():
    """Spatial softmax follows a blob; the policy's output depends on frame, state and step."""
    pool = SpatialSoftmax()
    maps = torch.full((1, 1, 8, 8), -9.0)
    maps[0, 0, 6, 1] = 9.0
    x, y = pool(maps)[0]
    assert (x.item(), y.item()) == (pytest.approx(-1 + 2 / 7, abs=0.02), pytest.approx(-1 + 12 / 7, abs=0.02))
    networks = build(preset("a1_tiny"), 0)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 128, 192, 3), np.uint8))
    features = networks.frame_encoder(frames)
    assert features.shape == (2, networks.frame_encoder.width)
    assert (features[0] - features[1]).abs().max() > 1e-4
    state = torch.randn(2, 16, 7)
    features = features.repeat(1, 3)
    base = networks.policy(state, torch.tensor([5.0, 5.0]), features)
    assert base.shape == (2, 16, 7)
    for other in (
        networks.policy(state, torch.tensor([50.0, 50.0]), features),
        networks.policy(state, torch.tensor([5.0, 5.0]), features + 1),
        networks.policy(state + 1, torch.tensor([5.0, 5.0]), features),
    ):
        assert (other - base).abs().max() > 1e-3
