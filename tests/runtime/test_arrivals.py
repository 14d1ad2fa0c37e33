"""Stamps of another clock: what was delayed is old, what was seen is not new, a clock that was set is told and is no fault."""

import random

import pytest

from dvgwm.runtime.arrivals import AGAIN_S, WINDOW_S, Arrivals

DAY = 1.8e9
"""A time of day: stamps of clocks that count from 1970 are as large."""


def ages(arrivals, messages):
    """Return how old each of the messages (sent, stamp, arrived) looks when it arrives; None for one that is not new."""
    made = [(arrived_s, arrivals.made_s(stamp_s, arrived_s)) for _, stamp_s, arrived_s in messages]
    return [None if made_s is None else arrived_s - made_s for arrived_s, made_s in made]


def regular(rate_hz, begin_s, end_s, offset_s=77.0, delay_s=0.001, jitter_s=0.0, rng=None, drift=0.0):
    """Return messages of a sender whose clock is ``offset_s`` off, which take a while to arrive."""
    rows, arrived_s = [], 0.0
    for k in range(round(begin_s * rate_hz), round(end_s * rate_hz)):
        sent_s = k / rate_hz
        late_s = delay_s + (rng.expovariate(1 / jitter_s) if jitter_s else 0.0)
        arrived_s = max(arrived_s, sent_s + late_s)  # one connection: nothing overtakes
        rows.append((sent_s, (1 + drift) * sent_s + offset_s, arrived_s))
    return rows


def test_a_message_that_was_fast_says_how_the_clocks_differ():
    arrivals = Arrivals()
    assert arrivals.made_s(1000.0, 5.0) == pytest.approx(5.0)
    assert arrivals.made_s(1000.1, 5.1) == pytest.approx(5.1)
    assert arrivals.made_s(1000.2, 5.5) == pytest.approx(5.2), "it was .3 s on its way"
    assert arrivals.made_s(1000.3, 5.35) == pytest.approx(5.3)


@pytest.mark.parametrize("rate_hz", [20, 30, 125, 200])
def test_with_jitter_none_is_younger_than_it_is_and_few_are_much_older(rate_hz):
    rng = random.Random(3)
    for each, row in zip(
        ages(arrivals := Arrivals(), rows := regular(rate_hz, 0, 30, jitter_s=0.002, rng=rng)), rows, strict=True
    ):
        truth_s = row[2] - row[0]
        assert each <= truth_s + 1e-9
        assert row[0] < 2.0 or each > truth_s - 0.003
    assert (arrivals.fault, arrivals.said) == (None, "")


def test_what_was_seen_and_what_is_out_of_order_is_not_new():
    arrivals = Arrivals()
    assert arrivals.made_s(10.0, 0.0) is not None
    assert arrivals.made_s(10.0, 0.1) is None
    assert arrivals.made_s(9.9, 0.2) is None
    assert arrivals.made_s(10.3, 0.3) == pytest.approx(0.3)


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_messages_that_overtake_each_other_are_one_sender(depth):
    arrivals, rows = Arrivals(), regular(100, 0, 10)
    for begin in range(0, len(rows), depth):
        part = rows[begin : begin + depth]
        for (_, stamp_s, _), (_, _, arrived_s) in zip(part[::-1], part, strict=True):
            arrivals.made_s(stamp_s, arrived_s)
    assert arrivals.fault is None
    assert arrivals.said == ""


@pytest.mark.parametrize("by_s", [0.1, 0.3, 0.5, 1.0, 2.0, 3600.0, 1e8])
@pytest.mark.parametrize("rate_hz", [20, 30, 100, 200])
def test_a_clock_that_is_set_back_is_told_and_followed_at_once(rate_hz, by_s):
    """No message after it looks older than two periods and what it took."""
    arrivals = Arrivals()
    before = ages(arrivals, regular(rate_hz, 0, 8, offset_s=DAY))
    after = ages(arrivals, regular(rate_hz, 8, 20, offset_s=DAY - by_s))
    assert max(before) <= 1e-6
    lost = [age for age in after if age is None]
    assert len(lost) <= 3
    assert max(age for age in after if age is not None) <= 2 / rate_hz + 0.01
    assert arrivals.fault is None
    if by_s > 2 / rate_hz:
        assert arrivals.said == f"its clock was set back by {by_s:.2f} s"


@pytest.mark.parametrize("by_s", [0.2, 1.0, 3600.0])
def test_a_clock_that_is_set_forward_is_told_and_followed_at_once(by_s):
    arrivals = Arrivals()
    ages(arrivals, regular(100, 0, 8))
    after = ages(arrivals, regular(100, 8, 20, offset_s=77.0 + by_s))
    assert None not in after
    assert max(after) < 0.01
    assert (arrivals.fault, arrivals.said) == (None, f"its clock was set forward by {by_s:.2f} s")


def test_a_pause_and_a_burst_are_no_clock_that_was_set():
    arrivals = Arrivals()
    rows = regular(100, 0, 20)
    late = [
        (sent_s, stamp_s, 12.0 + k * 1e-4 if 10.0 <= sent_s < 12.0 else at_s)
        for k, (sent_s, stamp_s, at_s) in enumerate(rows)
    ]
    told = ages(arrivals, late)
    assert max(told) == pytest.approx(2.0, abs=0.2), "what was held up is as old as it is"
    assert told[-1] < 0.01
    assert (arrivals.fault, arrivals.said) == (None, "")


@pytest.mark.parametrize("drift", [-1e-3, -1e-4, 1e-4, 1e-3])
def test_a_clock_that_drifts_is_followed(drift):
    """A clock that is slow by one in a thousand seems .06 s late after a minute, were the first message held against all."""
    told = ages(Arrivals(), regular(100, 0, 60, drift=drift))
    assert max(told) <= abs(drift) * WINDOW_S + 1e-6


SECOND = {
    "a recording on the same topic": regular(20, 0, 10, offset_s=-5000.0),
    "one a second behind": regular(20, 0, 10, offset_s=76.0),
    "a faster one in the past": regular(500, 0, 10, offset_s=-3.0),
    "one in the future": regular(20, 0, 10, offset_s=9999.0),
    "an echo, half a second late": [(sent_s, stamp_s, at_s + 0.5) for sent_s, stamp_s, at_s in regular(20, 0, 10)],
}


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("rate_hz", [30, 100, 200])
def test_stamps_that_alternate_are_two_senders(second, rate_hz):
    arrivals = Arrivals()
    rows = sorted([*regular(rate_hz, 0, 10), *SECOND[second]], key=lambda row: row[2])
    ages(arrivals, rows)
    assert arrivals.fault is not None
    assert arrivals.made_s(1e12, 99.0) is None, "it is believed no more"


@pytest.mark.parametrize("length_s", [1, 2, 5])
def test_a_recording_that_begins_anew_is_told(length_s):
    """Its first round looks as a clock does that was set back; the second one does not."""
    rows = regular(30, 0, 60)
    again = [(k / 30, rows[k % (30 * length_s)][1], k / 30) for k in range(30 * length_s * 3)]
    arrivals = Arrivals()
    told = ages(arrivals, again)
    assert "set back twice within" in arrivals.fault
    assert sum(age is not None for age in told) <= 30 * length_s * 2
    today = Arrivals()
    made = [at_s - today.made_s(DAY + stamp_s, at_s, DAY + 77.0 + at_s) for _, stamp_s, at_s in again[: 30 * length_s]]
    assert max(made) < 0.01
    assert today.made_s(DAY + again[0][1], length_s, DAY + 77.0 + length_s) is None
    second = today.made_s(DAY + again[1][1], length_s + 1 / 30, DAY + 77.0 + length_s + 1 / 30)
    assert length_s + 1 / 30 - second == pytest.approx(length_s, abs=0.01), "by the time of day it is seen at once"


def test_a_clock_that_is_set_back_again_and_again_is_none():
    arrivals, rows = Arrivals(), []
    for round_ in range(3):
        rows += regular(30, 3 * round_, 3 * round_ + 3, offset_s=77.0 - 1.5001 * round_)
    ages(arrivals, rows)
    assert "twice within" in arrivals.fault
    patient = Arrivals()
    ages(patient, regular(30, 0, 3))
    ages(patient, regular(30, 3, AGAIN_S + 9, offset_s=75.5))
    ages(patient, regular(30, AGAIN_S + 9, AGAIN_S + 20, offset_s=74.0))
    assert patient.fault is None


@pytest.mark.parametrize("delay_s", [0.0, 0.09, 0.3, 3.0, 86400.0])
def test_where_the_clock_is_this_machines_a_constant_delay_is_seen(delay_s):
    arrivals = Arrivals()
    for _, stamp_s, at_s in regular(30, 0, 10, offset_s=DAY - delay_s, delay_s=0.0):
        made_s = arrivals.made_s(stamp_s, at_s, DAY + at_s)
        assert at_s - made_s == pytest.approx(delay_s, abs=1e-5)


@pytest.mark.parametrize("offset_s", [5.0, 12_345.0, DAY + 2.0])
def test_stamps_of_something_else_than_the_time_of_day_tell_no_age(offset_s):
    """Seconds since something was switched on, simulated time, or a time that is yet to come: the offset is estimated."""
    arrivals = Arrivals()
    for _, stamp_s, at_s in regular(30, 0, 10, offset_s=offset_s, delay_s=0.0):
        assert at_s - arrivals.made_s(stamp_s, at_s, DAY + at_s) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("stamp_s", [float("nan"), float("inf"), float("-inf")])
def test_a_stamp_that_is_no_number_is_not_new(stamp_s):
    arrivals = Arrivals()
    arrivals.made_s(10.0, 0.0)
    assert arrivals.made_s(stamp_s, 0.1) is None
    assert arrivals.made_s(10.2, 0.2) == pytest.approx(0.2)


def test_without_a_stamp_it_was_made_when_it_came():
    arrivals = Arrivals()
    assert arrivals.made_s(0.0, 3.0) == 3.0
    assert arrivals.made_s(0.0, 3.1) == 3.1
