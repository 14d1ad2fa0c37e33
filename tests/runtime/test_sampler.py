"""One step by one row: the plain twin of the fused kernel."""

import numpy as np
import pytest

from dvgwm.runtime.errors import InternalError, ShapeError
from dvgwm.runtime.sampler import Step, advance


def arrays(*shapes):
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


ROW = Step(10.0, 0.9, -0.3, 0.2, 0.1, 0.7, -0.6, 5.0)


@pytest.mark.parametrize("count", [1, 2])
def test_advance_is_the_formula_in_place_with_guidance(count):
    state, history, noise, empty, full = arrays(*[(count, 3, 4)] * 5)
    velocity = np.concatenate([empty, full])
    rest = 0.9 * state + 0.2 * history + 0.1 * noise
    given = velocity.copy(), noise.copy()
    expected = rest - 0.3 * (empty + 5.0 * (full - empty))
    swapped = rest - 0.3 * (full + 5.0 * (empty - full))
    advance(ROW, state, velocity, history, noise)
    assert np.allclose(state, expected, atol=1e-5)
    assert not np.allclose(state, swapped, atol=0.1), "the first half is the unconditional one"
    assert np.array_equal(velocity, given[0])
    assert np.array_equal(noise, given[1])


def test_advance_keeps_the_state_before_the_step_in_the_history():
    state, velocity, history, noise = arrays(*[(1, 3, 4)] * 4)
    before = state.copy()
    advance(ROW, state, velocity, history, noise)
    assert np.allclose(history, 0.7 * before - 0.6 * velocity, atol=1e-6)
    assert not np.allclose(history, 0.7 * state - 0.6 * velocity, atol=0.1)


def test_advance_takes_one_velocity_for_all():
    state, velocity = arrays((3, 4), (1, 4))
    expected = 0.9 * state - 0.3 * velocity
    advance(Step(0.0, 0.9, -0.3, guidance=5.0), state, velocity, None, None)
    assert np.allclose(state, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "history", "noise", "error", "log_code"),
    [
        (3, True, True, ShapeError, "SAMPLER_VELOCITY"),
        (2, False, True, InternalError, "SAMPLER_INPUT"),
        (2, True, False, InternalError, "SAMPLER_INPUT"),
    ],
)
def test_advance_refuses_what_it_cannot_use_and_leaves_the_state(rows, history, noise, error, log_code):
    state, velocity, other = arrays((2, 4), (rows, 4), (2, 4))
    before = state.copy()
    with pytest.raises(error) as caught:
        advance(ROW, state, velocity, other if history else None, other if noise else None)
    assert caught.value.log_code == log_code
    assert np.array_equal(state, before)


def test_advance_clips_between_its_two_maps():
    row = Step(0.0, 0.5, 0.25, clip=(1.0, 2.0, -1.0))
    state, velocity = np.asarray([[0.1, 3.0, -3.0]], np.float32), np.asarray([[0.5, 0.5, 0.5]], np.float32)
    advance(row, state, velocity, None, None)
    assert np.allclose(state, [[0.5 * (0.2 - 0.5) + 0.125, 0.5 + 0.125, -0.5 + 0.125]])
