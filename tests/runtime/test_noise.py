"""Noise is one function of (seed, stage, step)."""

import numpy as np

from dvgwm.runtime.noise import draw


def test_the_same_three_give_the_same_numbers_for_ever():
    golden = draw(7, "preview", 0, (2, 3))
    assert np.array_equal(golden, draw(7, "preview", 0, (2, 3)))
    assert golden.dtype == np.float32
    assert np.allclose(golden.ravel()[:3], [-1.831913, -1.2649015, -0.7480757], atol=1e-6)


def test_any_other_gives_independent_numbers():
    base = draw(7, "preview", 0, (20_000,))
    for other in (draw(8, "preview", 0, (20_000,)), draw(7, "bridge", 0, (20_000,)), draw(7, "preview", 1, (20_000,))):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.03


def test_it_is_standard_normal():
    sample = draw(0, "act", 0, (200_000,))
    assert abs(sample.mean()) < 0.01
    assert abs(sample.std() - 1) < 0.01
    assert abs((sample**4).mean() - 3) < 0.1
