"""Noise is one function of (seed, stage, step)."""

import itertools
import math

import numpy as np

from dvgwm.runtime.noise import draw

COUNT = 20_000


def test_the_same_three_give_the_same_numbers_for_ever():
    golden = draw(7, "preview", 0, (2, 3))
    assert np.array_equal(golden, draw(7, "preview", 0, (2, 3)))
    assert golden.dtype == np.float32
    assert np.allclose(golden.ravel()[:3], [-1.831913, -1.2649015, -0.7480757], atol=1e-6)


def test_the_shape_only_folds_the_numbers():
    assert np.array_equal(draw(7, "preview", 0, (2, 3)).ravel(), draw(7, "preview", 0, (6,)))


def test_any_other_gives_independent_numbers():
    """Every pair over seeds, stages and steps, aligned and shifted by one: five standard deviations are .035."""
    keys = list(itertools.product((0, 1, 2), ("preview", "bridge", "act"), (0, 1, 2)))
    draws = np.stack([draw(seed, stage, step, (COUNT,)) for seed, stage, step in keys]).astype(np.float64)
    pairs = ~np.eye(len(keys), dtype=bool)
    for other in (draws, np.roll(draws, 1, axis=1)):
        assert np.abs(draws @ other.T / COUNT)[pairs].max() < 0.035
        assert np.abs((draws**2 - 1) @ (other**2 - 1).T / (2 * COUNT))[pairs].max() < 0.05


def test_keys_that_read_alike_are_not_the_same():
    alike = draw(1, "1/a", 0, (COUNT,)), draw(1, "a", 10, (COUNT,)), draw(11, "a", 0, (COUNT,))
    for one, other in itertools.combinations(alike, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.035


def test_it_is_standard_normal():
    """Moments, and the distribution itself (Kolmogorov-Smirnov at one in a thousand)."""
    sample = np.sort(draw(0, "act", 0, (200_000,)).astype(np.float64))
    assert abs(sample.mean()) < 0.01
    assert abs(sample.std() - 1) < 0.01
    assert abs((sample**3).mean()) < 0.03
    assert abs((sample**4).mean() - 3) < 0.1
    for at in np.linspace(-3, 3, 61):
        expected = (1 + math.erf(at / math.sqrt(2))) / 2
        assert abs(np.searchsorted(sample, at) / len(sample) - expected) < 1.95 / math.sqrt(len(sample))
