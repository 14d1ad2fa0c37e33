"""Each objective against a naive version in double precision, and against diffusers' schedulers where they have it."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the train extra is not installed")

from dvgwm.models.codec import LinearCodec
from dvgwm.models.denoisers import preview_signal
from dvgwm.models.sizes import Scaling
from dvgwm.training import objectives as o
from dvgwm.training.degradation import degrade_pixels, raised
from dvgwm.training.policy import noise_error

pytestmark = pytest.mark.torch


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def test_the_previews_grid_is_cogvideoxs():
    alpha, sigma = preview_signal(1.0)
    scheduler = diffusers.CogVideoXDDIMScheduler(
        snr_shift_scale=1.0, rescale_betas_zero_snr=True, beta_schedule="scaled_linear", prediction_type="v_prediction"
    )
    assert np.allclose(alpha.numpy() ** 2, scheduler.alphas_cumprod.numpy(), atol=1e-6)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(1000, dtype=torch.float64))
    assert alpha[-1] == 0.0
    assert sigma[-1] == 1.0


def test_noised_latents_and_their_velocity_are_cogvideoxs():
    clean, noise = random(3, 2, 4, 5, 6), random(3, 2, 4, 5, 6, seed=1)
    alpha, sigma = preview_signal(1.0)
    steps = torch.tensor([0, 500, 999])
    x, v = o.diffuse(clean, noise, alpha[steps], sigma[steps]), o.velocity(clean, noise, alpha[steps], sigma[steps])
    for n, step in enumerate(steps.tolist()):
        a, s = float(alpha[step]), float(sigma[step])
        for at in np.ndindex(2, 4, 5, 6):
            c, e = float(clean[n][at]), float(noise[n][at])
            assert float(x[n][at]) == pytest.approx(a * c + s * e, abs=1e-12)
            assert float(v[n][at]) == pytest.approx(a * e - s * c, abs=1e-12)
        # What a sampler makes of a perfect prediction is the clean latent.
        assert torch.allclose(a * x[n] - s * v[n], clean[n], atol=1e-12)
    other = o.velocity(clean, noise, alpha[steps.flip(0)], sigma[steps.flip(0)])
    assert (other[0] - v[0]).abs().max() > 0.5


def test_the_flow_goes_straight_from_degraded_to_true_latents():
    start, end = random(2, 3, 4, 5, 6), random(2, 3, 4, 5, 6, seed=1)
    tau = torch.tensor([0.0, 0.3], dtype=torch.float64)
    state, wanted = o.flow_state(start, end, tau), o.flow_velocity(start, end)
    assert torch.equal(state[0], start[0])
    for at in np.ndindex(3, 4, 5, 6):
        assert float(state[1][at]) == pytest.approx(0.7 * float(start[1][at]) + 0.3 * float(end[1][at]), abs=1e-12)
    # Four Euler steps along the true velocity end at the true latents (Eq. 5).
    z = start.clone()
    for _ in range(4):
        z += wanted / 4
    assert torch.allclose(z, end)


def test_latent_degradation_keeps_the_variance():
    alpha, sigma = preview_signal(1.0)
    latents, noise = random(4, 50, 16, 8, 8), random(4, 50, 16, 8, 8, seed=1)
    steps = torch.tensor([100, 200, 300, 400])
    made = o.degrade_latents(latents, noise, alpha[steps], sigma[steps])
    assert torch.allclose(made.flatten(1).var(1), torch.ones(4, dtype=torch.float64), atol=0.02)
    likeness = [
        float(torch.corrcoef(torch.stack([m.flatten(), z.flatten()]))[0, 1]) for m, z in zip(made, latents, strict=True)
    ]
    assert likeness == pytest.approx(alpha[steps].tolist(), abs=0.02)


def test_the_policys_loss_is_equation_6():
    levels = o.policy_levels(100)
    levels.alpha, levels.sigma = levels.alpha.double(), levels.sigma.double()
    alpha = levels.alpha
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
    assert np.allclose(alpha.numpy() ** 2, scheduler.alphas_cumprod.numpy(), atol=1e-6)
    actions, features = random(3, 16, 7), random(3, 5, seed=1)
    told = []

    def guess(state, step, seen):
        told.append((state, step, seen))
        return 0.5 * state + seen.mean(1).view(-1, 1, 1)

    loss = noise_error(guess, features, actions, levels, 4, seeded(7))
    (state, step, seen) = told[0]
    assert state.shape == (12, 16, 7)
    generator = seeded(7)
    steps = torch.randint(100, (12,), generator=generator)
    noise = torch.randn((12, 16, 7), generator=generator, dtype=torch.float64)
    assert torch.equal(step, steps.float())
    total = 0.0
    for n in range(12):
        a, s = (
            math.sqrt(float(scheduler.alphas_cumprod[steps[n]])),
            math.sqrt(1 - float(scheduler.alphas_cumprod[steps[n]])),
        )
        noisy = a * actions[n % 3] + s * noise[n]
        assert torch.allclose(state[n], noisy, atol=1e-5)
        total += float((0.5 * noisy + features[n % 3].mean() - noise[n]).square().mean())
    assert float(loss) == pytest.approx(total / 12, rel=1e-5)
    assert torch.equal(seen[:3], features)


def test_channels_are_weighted_by_their_scale_in_pixels():
    codec = LinearCodec(2, 3)
    codec.get_buffer("group_scale").copy_(torch.tensor([3.0, 1.0, 0.5]))
    codec.get_buffer("group_basis").copy_(torch.eye(3, 48))
    error = random(4, 3).float()
    pixels = (error * codec.group_scale) @ codec.group_basis
    weighted = error.square().mean(0, keepdim=True).T[:, :, None] * o.channel_weight(codec, 2.0)
    assert float(weighted.sum()) == pytest.approx(float(pixels.square().sum(1).mean()), rel=1e-5)
    assert o.channel_weight(codec, 0.0).tolist() == [[[1.0]]]
    assert o.channel_weight(torch.nn.Identity(), 0.0).tolist() == [[[1.0]]], "a VAE has no such scale"


def test_squared_error_is_the_mean_and_its_weights_are_relative():
    a, b = random(2, 3, 1, 2, 2), random(2, 3, 1, 2, 2, seed=1)
    naive = sum((float(x) - float(y)) ** 2 for x, y in zip(a.flatten(), b.flatten(), strict=True)) / 24
    assert float(o.squared_error(a, b)) == pytest.approx(naive, rel=1e-6)
    assert float(o.squared_error(a, b, torch.full((2, 3, 1, 1, 1), 7.0))) == pytest.approx(naive, rel=1e-6)
    only = torch.zeros(2, 3, 1, 1, 1)
    only[0, 1] = 1.0
    assert float(o.squared_error(a, b, only)) == pytest.approx(float((a[0, 1] - b[0, 1]).square().mean()), rel=1e-6)


def test_what_moves_weighs_more():
    clip = torch.zeros(1, 4, 2, 3, 3)
    clip[0, 2:, :, 1, 1] = 5.0
    weight = o.moving_weight(clip, 3.0)
    assert weight.shape == (1, 4, 1, 3, 3)
    assert weight[0, 2, 0, 1, 1] == 4.0
    assert weight.sum() == 36 + 3


def test_the_pose_is_judged_where_it_is_known():
    wanted, known = torch.zeros(4, 7), torch.tensor([True, False, True, False])
    predicted = torch.tensor([0.0, 9.0, 0.05, 9.0])[:, None].expand(4, 7)
    assert float(o.pose_error(predicted, wanted, known)) == pytest.approx(0.5 * 0.05**2 / 0.1 / 2, rel=1e-5)
    assert float(o.pose_error(predicted, wanted, torch.zeros(4, dtype=torch.bool))) == 0.0


def test_steps_are_uniform_or_lean_towards_noise():
    even, leaning = (o.preview_steps(20_000, lean, seeded()) for lean in (0.0, 1.0))
    for steps, share in ((even, 0.5), (leaning, 0.75)):
        assert 0 <= int(steps.min()) <= int(steps.max()) <= 999
        assert float((steps >= 500).double().mean()) == pytest.approx(share, abs=0.02)


def test_conditions_are_dropped_as_often_as_asked():
    assert float(o.drop(20_000, 0.1, seeded()).double().mean()) == pytest.approx(0.1, abs=0.01)
    assert not o.drop(100, 0.0, seeded()).any()


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.9])
def test_pixels_are_lost_but_not_the_picture(draw):
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 96), indexing="ij")
    smooth = torch.stack([rows, columns, rows * columns])[None, :, None].repeat(1, 1, 3, 1, 1)
    assert (degrade_pixels(smooth, (32, 48), draw) - smooth).abs().mean() < 0.03
    fine = torch.rand(1, 3, 3, 64, 96, generator=seeded()) * 2 - 1
    lost = degrade_pixels(fine, (32, 48), draw)
    assert lost.shape == fine.shape
    assert lost.std() < 0.8 * fine.std()


def test_raised_latents_are_the_runtimes_bridge():
    from dvgwm.runtime.backends.host import HostBackend

    low, high = Scaling((0.1,), (2.0,)), Scaling((-0.2,), (0.5,))
    latents = random(1, 3, 4, 5, 6).float()
    made = raised(latents, (10, 12), low, high)
    from dvgwm.models.denoisers import rescaling

    scale, shift = (np.asarray(part, np.float32) for part in rescaling(low, high))
    backend = HostBackend("host", lambda path, spec: None)
    noise = np.zeros((1, 3, 4, 10, 12), np.float32)
    wanted = backend.bridge(latents.numpy(), scale, shift, noise, 1.0, 0.0)
    assert np.abs(made.numpy() - wanted).max() < 1e-5


def test_clean_latents_weigh_less_where_the_state_is_nearly_clean():
    """The weighted error of the velocity is min(1 / sigma^2, 5) times that of the clean latents behind it."""
    alpha, sigma = preview_signal(1.0)
    clean, noise, told = (random(4, 2, 3, seed=n) for n in range(3))
    steps = torch.tensor([0, 80, 500, 999])
    a, s = (table[steps].view(-1, 1, 1) for table in (alpha, sigma))
    state = o.diffuse(clean, noise, alpha[steps], sigma[steps])
    predicted = (a * state - told) / s
    made = (predicted - o.velocity(clean, noise, alpha[steps], sigma[steps])).square()
    made *= o.clean_weight(sigma[steps]).view(-1, 1, 1)
    for n in range(4):
        wanted = min(1.0 / float(s[n]) ** 2, 5.0) * (told[n] - clean[n]) ** 2
        assert torch.allclose(made[n], wanted, rtol=1e-8)
