"""The gate against an oracle that shares no code with it, and proof that it lets good commands pass."""

import math
import random
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from dvgwm.robots import gate
from dvgwm.robots.limits import JointLimits
from dvgwm.runtime.errors import ConfigError

LIMITS = JointLimits((-1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (4.0, 10.0))
PERIOD_S = 0.02


def oracle(limits, before, after, period_s=PERIOD_S):
    """Recompute position, speed, acceleration and a full brake with plain sums; return what is violated."""
    wrong = []
    for joint in range(limits.dof):
        q, v = after.position[joint], (after.position[joint] - before.position[joint]) / period_s
        if not limits.lower[joint] <= q <= limits.upper[joint]:
            wrong.append("position")
        if abs(v) > limits.velocity[joint] + 1e-6:
            wrong.append("velocity")
        if abs(v - before.velocity[joint]) > limits.acceleration[joint] * period_s + 1e-6:
            wrong.append("acceleration")
        speed, place = abs(v), q
        while speed > 0:
            speed = max(speed - limits.acceleration[joint] * period_s, 0.0)
            place += math.copysign(speed * period_s, v)
        if not limits.lower[joint] - 1e-7 <= place <= limits.upper[joint] + 1e-7:
            wrong.append("stopping distance")
    return wrong


def requests(rng, state):
    """Draw a request: near, far, at a limit, absurd, not finite, of another size, stale."""
    kind = rng.random()
    if kind < 0.02:
        return [rng.choice([math.nan, math.inf, -math.inf]), 0.5], 0.0
    if kind < 0.03:
        return [0.0] * rng.choice([0, 1, 3]), 0.0
    if kind < 0.05:
        return [0.0, 0.5], rng.choice([0.2, math.nan, -1.0, math.inf])
    if kind < 0.1:
        return None, 0.0
    if kind < 0.4:
        return [rng.choice([-1.0, 1.0, -9.0, 9.0]), rng.choice([0.0, 1.0, 5.0])], 0.0
    if kind < 0.5:
        return [rng.uniform(-1e300, 1e300), rng.uniform(-3, 3)], 0.0
    return [q + rng.gauss(0.0, 0.02) for q in state.position], 0.0


def test_fuzz_of_150_000_requests_finds_no_unsafe_output():
    rng = random.Random(20261123)
    state, latches = gate.rest((0.0, 0.5)), 0
    for _ in range(150_000):
        target, age_s = requests(rng, state)
        after, verdict = gate.check(LIMITS, PERIOD_S, state, target, age_s)
        assert verdict.position == after.position
        assert all(math.isfinite(q) for q in verdict.position)
        assert not oracle(LIMITS, state, after), (state, target, after)
        if after.latched is not None:
            latches += 1
            after = gate.GateState(after.position, after.velocity)
        state = after
    assert latches > 1000


def test_fuzz_of_other_limits_and_periods_finds_no_unsafe_output():
    """50,000 requests, a thousand for each of fifty sets of limits and periods; a target stays for some ticks."""
    rng = random.Random(7)
    for _ in range(50):
        lower = [rng.uniform(-4.0, 3.0) for _ in range(3)]
        upper = [low + rng.uniform(0.001, 6.0) for low in lower]
        speeds, accelerations = ([rng.uniform(0.05, 20.0) for _ in range(3)] for _ in range(2))
        limits = JointLimits(tuple(lower), tuple(upper), tuple(speeds), tuple(accelerations))
        period_s, state, target = rng.choice([0.001, 0.008, 0.02, 0.1]), gate.rest(lower), lower
        for _ in range(1000):
            if rng.random() < 0.05:
                ranges = zip(lower, upper, strict=True)
                target = [rng.choice([low, high, rng.uniform(low - 1, high + 1)]) for low, high in ranges]
            after, _ = gate.check(limits, period_s, state, None if rng.random() < 0.05 else target)
            assert not oracle(limits, state, after, period_s), (limits, period_s, state, target, after)
            state = after


def test_the_oracle_sees_the_continuous_formulas_overshoot(monkeypatch):
    """A negative control: with sqrt(2 a r), the textbook's stopping distance, the fuzz has to fail."""
    monkeypatch.setattr(gate, "speed_cap", lambda room, a, dt: math.sqrt(2 * a * max(room, 0.0)))
    state, wrong = gate.rest((0.0, 0.5)), []
    for _ in range(200):
        after, _ = gate.check(LIMITS, PERIOD_S, state, (1.0, 1.0))
        wrong += oracle(LIMITS, state, after)
        state = after
    assert wrong


def test_a_smooth_command_passes_bit_for_bit():
    state = gate.rest((0.0, 0.5))
    for tick in range(1, 500):
        t = tick * PERIOD_S
        target = (0.4 * math.sin(t) ** 3, 0.5 + 0.3 * math.sin(0.7 * t) ** 3)
        state, verdict = gate.check(LIMITS, PERIOD_S, state, target)
        assert verdict.log_code is None
        assert verdict.position == target


def test_a_rounding_past_the_limit_is_kept_inside_without_a_word():
    state, verdict = gate.check(LIMITS, PERIOD_S, gate.rest((1.0, 0.0)), (1.0 + 1e-12, -1e-12))
    assert verdict.position == (1.0, 0.0)
    assert verdict.log_code is None
    _, verdict = gate.check(LIMITS, PERIOD_S, state, (1.0 + 1e-6, 0.0))
    assert (verdict.position, verdict.log_code) == ((1.0, 0.0), "GATE_LIMIT")


def test_a_target_at_the_limit_is_reached():
    state = gate.rest((0.0, 0.5))
    for _ in range(300):
        state, _ = gate.check(LIMITS, PERIOD_S, state, (1.0, 1.0))
    assert state.position == pytest.approx((1.0, 1.0), abs=1e-6)


@pytest.mark.parametrize(
    ("target", "age_s", "log_code", "latches"),
    [
        ((math.nan, 0.5), 0.0, "GATE_NONFINITE", True),
        ((0.0, -math.inf), 0.0, "GATE_NONFINITE", True),
        ((0.0,), 0.0, "GATE_SHAPE", True),
        ((0.0, 0.5), 0.2, "GATE_STALE", False),
        ((0.0, 0.5), math.nan, "GATE_STALE", False),
        ((0.9, 0.5), 0.0, "GATE_FAST", False),
        ((9.0, 0.5), 0.0, "GATE_LIMIT", False),
    ],
)
def test_what_does_not_pass_is_named(target, age_s, log_code, latches):
    state, verdict = gate.check(LIMITS, PERIOD_S, gate.rest((0.0, 0.5)), target, age_s)
    assert verdict.log_code == log_code
    assert (state.latched is not None) == latches


def test_a_latched_gate_brakes_and_holds_whatever_comes():
    state = gate.rest((0.0, 0.5))
    for tick in range(1, 30):
        state, _ = gate.check(LIMITS, PERIOD_S, state, (min(0.02 * tick, 0.5), 0.5))
    state, _ = gate.check(LIMITS, PERIOD_S, state, (math.nan, 0.5))
    assert state.velocity[0] > 0
    for _ in range(20):
        state, verdict = gate.check(LIMITS, PERIOD_S, state, (0.0, 0.0))
        assert verdict.log_code == "GATE_NONFINITE"
    assert state.velocity == (0.0, 0.0)
    held = state.position
    state, _ = gate.check(LIMITS, PERIOD_S, state, (0.5, 0.5))
    assert state.position == held


def test_speed_cap_is_the_exact_inverse_of_the_tick_sum():
    rng = random.Random(1)
    for _ in range(2000):
        room, a = rng.uniform(0, 2), rng.uniform(0.5, 20)
        v, travelled = gate.speed_cap(room, a, PERIOD_S), 0.0
        while v > 0:
            travelled += v * PERIOD_S
            v -= a * PERIOD_S
        assert travelled == pytest.approx(room, abs=1e-9)
    assert gate.speed_cap(-1.0, 4.0, PERIOD_S) == 0.0


@pytest.mark.parametrize(
    "columns",
    [
        ((), (), (), ()),
        ((0.0,), (1.0, 2.0), (1.0,), (1.0,)),
        ((1.0,), (1.0,), (1.0,), (1.0,)),
        ((0.0,), (1.0,), (0.0,), (1.0,)),
        ((0.0,), (1.0,), (1.0,), (-1.0,)),
        ((math.nan,), (1.0,), (1.0,), (1.0,)),
    ],
)
def test_limits_that_make_no_sense_are_refused(columns):
    with pytest.raises(ConfigError):
        JointLimits(*columns)


def test_the_gate_needs_the_standard_library_only():
    code = "import dvgwm.robots.gate, sys; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "wrong",
    ["0.1", b"0.1", None, True, np.True_, Decimal("0.1"), 10**400, -(10**400), 1j, [0.1], np.array([0.1]), object()],
)
def test_what_is_no_real_number_latches(wrong):
    state, verdict = gate.check(LIMITS, PERIOD_S, gate.rest((0.0, 0.5)), (wrong, 0.5))
    assert state.latched == verdict.log_code == "GATE_NONFINITE"
    assert state.position == (0.0, 0.5)


@pytest.mark.parametrize(
    "wrong", ["ab", b"ab", {0.0: 1, 0.5: 2}, {0.0, 0.5}, 0.5, iter((0.0, 0.5)), range(3), np.zeros((3, 2))]
)
def test_what_has_no_order_or_another_size_latches(wrong):
    state, _ = gate.check(LIMITS, PERIOD_S, gate.rest((0.0, 0.5)), wrong)
    assert state.latched == "GATE_SHAPE"


@pytest.mark.parametrize("age_s", ["0", None, True, Decimal(0), 10**400, 1j])
def test_an_age_that_is_no_real_number_is_stale(age_s):
    _, verdict = gate.check(LIMITS, PERIOD_S, gate.rest((0.0, 0.5)), (0.0, 0.5), age_s)
    assert verdict.log_code == "GATE_STALE"


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble, Fraction])
def test_every_target_is_computed_in_double(kind):
    limits = JointLimits((-0.1, 0.0), (0.1, 1.0), (1.0, 2.0), (4.0, 10.0))
    state = gate.rest((0.099, 0.5))
    for _ in range(50):
        state, verdict = gate.check(limits, PERIOD_S, state, (kind(0.1) + kind(1e-3), kind(0.5)))
        assert all(type(value) is float for value in (*state.position, *state.velocity, *verdict.position))
        assert verdict.position[0] <= 0.1
    assert state.position[0] == 0.1
    rounded = np.float32(0.1)  # 1.5e-9 above the limit, and in single precision not above it at all
    _, verdict = gate.check(limits, PERIOD_S, gate.rest((0.1, 0.5)), (rounded, np.float32(0.5)))
    assert verdict.position[0] == 0.1


def test_whole_numbers_are_real_ones():
    _, verdict = gate.check(LIMITS, PERIOD_S, gate.rest((0.0, 0.0)), (0, np.int64(0)))
    assert verdict == gate.Verdict((0.0, 0.0), None)
