"""Stamps of another clock: what was delayed is old, what was seen is not new, a clock that was set is no fault."""

import random

import pytest

from dvgwm.runtime.arrivals import STEP_S, WINDOW_S, Arrivals


def test_a_message_that_was_fast_says_how_the_clocks_differ():
    arrivals = Arrivals()
    assert arrivals.made_s(1000.0, 5.0) == pytest.approx(5.0)
    assert arrivals.made_s(1000.1, 5.1) == pytest.approx(5.1)
    assert arrivals.made_s(1000.2, 5.5) == pytest.approx(5.2), "it was .3 s on its way"
    assert arrivals.made_s(1000.3, 5.35) == pytest.approx(5.3)


def test_with_jitter_none_is_younger_than_it_is_and_few_are_much_older():
    rng, arrivals = random.Random(3), Arrivals()
    for tick in range(2000):
        sent_s = 0.01 * tick
        made_s = arrivals.made_s(77.0 + sent_s, sent_s + 0.001 + rng.expovariate(1 / 0.002))
        assert made_s - sent_s >= 0.001 - 1e-9
        assert tick < 100 or made_s - sent_s < 0.0015


def test_what_was_seen_and_what_is_out_of_order_is_not_new():
    arrivals = Arrivals()
    assert arrivals.made_s(10.0, 0.0) is not None
    assert arrivals.made_s(10.0, 0.1) is None
    assert arrivals.made_s(9.9, 0.2) is None
    assert arrivals.made_s(10.3, 0.3) == pytest.approx(0.3)


def test_a_clock_that_was_set_back_begins_anew_and_one_that_was_set_forward_goes_on():
    arrivals = Arrivals()
    arrivals.made_s(1000.0, 1.0)
    assert arrivals.made_s(1000.1 - 2 * STEP_S, 1.1) == pytest.approx(1.1)
    assert arrivals.made_s(5000.0, 1.2) == pytest.approx(1.2)


def test_a_clock_that_drifts_is_followed():
    """A clock that is slow by one in a thousand seems .06 s late after a minute, were the first message held against all."""
    arrivals = Arrivals()
    ages = [0.01 * k - arrivals.made_s(0.999 * 0.01 * k + 1.0, 0.01 * k) for k in range(6000)]
    assert max(ages) <= 0.001 * WINDOW_S + 1e-6


def test_without_a_stamp_it_was_made_when_it_came():
    arrivals = Arrivals()
    assert arrivals.made_s(0.0, 3.0) == 3.0
    assert arrivals.made_s(0.0, 3.1) == 3.1
