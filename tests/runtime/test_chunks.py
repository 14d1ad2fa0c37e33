"""Chunks: what they see, what their samples come to, and how they are blended."""

import numpy as np
import pytest

from dvgwm.runtime.chunks import Chunking, agree, blend


def test_every_chunk_sees_its_own_frames_and_each_frame_is_encoded_once():
    plan = Chunking(49, 4, (0, 4, 8))
    assert plan.starts.tolist() == list(range(0, 41, 4))
    assert plan.shown.tolist() == list(range(0, 49, 4))
    assert plan.shown[plan.shown_index].tolist() == [[n, n + 4, n + 8] for n in range(0, 41, 4)]
    assert plan.actions == 48
    uneven = Chunking(12, 5, (0, 1, 7))
    assert uneven.shown.tolist() == [0, 1, 7]
    assert uneven.shown[uneven.shown_index].tolist() == [[0, 1, 7]]


def test_samples_that_agree_come_to_their_mean_and_say_how_far_apart_they_were():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-1, 1, (1, 3, 16, 7))
    samples = (truth + rng.normal(0, 0.1, (64, 3, 16, 7))).astype(np.float32)
    chosen, spread = agree(samples, 0.5)
    assert np.abs(chosen - truth[0]).max() < 0.06
    assert spread.mean() == pytest.approx(0.1, rel=0.05)


def test_samples_that_go_two_ways_come_to_one_of_them():
    left, right = np.full((16, 7), -0.8), np.full((16, 7), 0.8)
    rng = np.random.default_rng(1)
    ways = np.stack([left, left, right, left, right]) + rng.normal(0, 0.01, (5, 16, 7))
    samples = np.stack([ways, np.zeros_like(ways)], 1).astype(np.float32)
    chosen, _ = agree(samples, 0.25)
    assert np.abs(chosen[0] - left).max() < 0.1, "the medoid is of the majority"
    assert any(np.array_equal(chosen[0], way) for way in samples[:, 0])
    assert not chosen[1].any(), "the other chunk is averaged"
    averaged, _ = agree(samples, 2.0)
    assert np.abs(averaged[0]).max() < 0.3, "and without the medoid it would go between"


def test_overlapping_chunks_are_averaged_by_their_weights():
    chunks = np.stack([np.full((4, 2), value, np.float32) for value in (1.0, 3.0, 5.0)])
    made = blend(chunks, [0, 2, 4], np.array([1, 1, 0.5, 0.5], np.float32), 7)
    expected = [1, 1, (0.5 + 3) / 1.5, (0.5 + 3) / 1.5, (1.5 + 5) / 1.5, (1.5 + 5) / 1.5, 5]
    assert np.allclose(made[:, 0], expected)
    assert made.dtype == np.float64


def test_the_same_samples_in_every_chunk_blend_to_themselves():
    path = np.random.default_rng(2).uniform(-1, 1, (48 + 16, 7)).astype(np.float32)
    starts = range(0, 41, 4)
    made = blend(np.stack([path[n : n + 16] for n in starts]), starts, np.linspace(1, 0.1, 16, dtype=np.float32), 48)
    assert np.abs(made - path[:48]).max() < 1e-6
