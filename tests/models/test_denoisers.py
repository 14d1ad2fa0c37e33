"""The denoisers: their velocity, their inputs, and the parts they leave alone."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")


from dvgwm.models.denoisers import DenoiseEngine, denoise_engine, preview_signal, rescaling
from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.models.sizes import LinearCodecSize
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec

pytestmark = pytest.mark.torch


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
    """A network with the clean latents, but for the first frame."""

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


def test_a_refiner_that_tells_nothing_leaves_the_preview_as_it_is(whole_codec):
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


def test_rescaling_from_the_5b_to_the_2b_is_1_64655():
    size = preset("dvgwm_5b")
    scale, shift = rescaling(size.preview_scaling, size.refiner_scaling)
    assert scale[0] == pytest.approx(1.15258426 / 0.7)
    assert shift == (0.0,)


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
    engine(*inputs, clean[:, :1], poses=given)
    assert torch.allclose(network.seen[2][:, 5, 8 : 8 + 28, 1, 2], given[:, 16:20].flatten(1))
