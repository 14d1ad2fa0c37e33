"""What is imagined during training is what the runtime would imagine; and how it is judged and drawn."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from dvgwm.runtime.sampler import advance
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec
from dvgwm.training.measures import moving, psnr_db
from dvgwm.training.sampling import guided, sample
from dvgwm.training.sheet import sheet, to_frames
from dvgwm.training.watch import judged

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("kind", ["ddim_v", "dpmpp_2m", "euler_flow", "ddim_epsilon"])
def test_the_samplers_are_the_runtimes(kind):
    spec = SamplerSpec(kind, 7, guidance=2.0, train_steps=100 if kind == "ddim_epsilon" else 1000)
    rows = build_sampler(spec)
    start = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)

    text, empty = torch.tensor([0.2, 0.4]), torch.tensor([0.1, 0.0])

    def network(state, time, words, image):
        return 0.3 * state + 0.001 * time + words.view(-1, 1, 1, 1, 1)

    image = torch.zeros(2, 1, 1, 1, 1)
    made = sample(rows, torch.from_numpy(start).view(2, 3, 4, 1, 1), guided(network, text, empty, image))
    state, history = start.copy(), np.zeros_like(start)
    for step in rows.steps:
        both = np.concatenate([state, state]) * np.float32(0.3) + np.float32(0.001 * step.time)
        both += np.concatenate([empty.numpy(), text.numpy()])[:, None, None]
        advance(step, state, both.astype(np.float32), history, None)
    assert np.abs(made.view(2, 3, 4).numpy() - state).max() < 1e-4
    assert np.abs(state - start).max() > 0.1


def test_psnr_leaves_the_given_first_frame_out_and_may_keep_to_what_moves():
    truth = torch.zeros(1, 3, 5, 8, 8)
    truth[:, :, 2:, 2:4, 2:4] = 1.0
    made = truth.clone()
    made[:, :, 0] = 0.7
    made[:, :, 1:] += 0.2
    assert float(psnr_db(made, truth)) == pytest.approx(20.0, abs=1e-4)
    where = moving(truth)
    assert where.sum() == 3 * 4
    made[:, :, 2:, 2:4, 2:4] += 1.8
    assert float(psnr_db(made, truth, where)) == pytest.approx(0.0, abs=1e-4)


def test_the_truth_is_better_than_a_still_frame_and_the_still_frame_is_not():
    truth = torch.rand(2, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    still = truth[:, :, :1].expand_as(truth)
    better, pictures = judged(truth * 0.99, truth)
    assert better["psnr_over_still_db"] > 10
    assert judged(still, truth)[0]["psnr_over_still_db"] == 0.0
    assert pictures["imagined"].shape == (4 * 18, 7 * 18, 3)


def test_a_sheet_has_a_row_per_clip_and_its_moments_in_order():
    clips = to_frames(torch.linspace(-1, 1, 9).view(1, 1, 9, 1, 1).expand(2, 3, 9, 4, 6))
    made = sheet(clips, 3)
    assert made.shape == (2 * 6, 3 * 8, 3)
    assert [int(made[0, column, 0]) for column in (0, 8, 16)] == [0, 128, 255]
