"""The pure motion core on a virtual clock."""

import math
from decimal import Decimal

import numpy as np
import pytest

from dvgwm.robots import motion
from dvgwm.robots.limits import JointLimits
from dvgwm.robots.motion import JointChunk, Mailbox
from dvgwm.runtime.errors import RobotCommunicationError, ShapeError

LIMITS = JointLimits((-1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (4.0, 10.0))
T = 0.02


def chunk(sequence=0, start_s=0.0, values=None):
    values = [0.3 * (1 - math.cos(0.5 * 0.1 * k)) for k in range(1, 21)] if values is None else values
    times = tuple(start_s + 0.1 * (k + 1) for k in range(len(values)))
    return JointChunk(sequence, times, tuple((v, 0.5) for v in values))


def run(core, box, ticks, start_tick=0):
    commands, events = [], []
    for tick in range(start_tick, start_tick + ticks):
        core, command, event = motion.step(core, tick * T, box)
        commands.append(command)
        events += [event] if event else []
    return core, np.asarray(commands), events


def fresh():
    return motion.start(LIMITS, T, (0.0, 0.5))


def test_targets_are_reached_at_their_times_without_a_clamp():
    _, commands, events = run(fresh(), Mailbox(chunk()), 100)
    for k in range(1, 21):
        assert commands[5 * k - 1][0] == pytest.approx(0.3 * (1 - math.cos(0.05 * k)), abs=1e-9)
    assert events == []
    speed = np.diff(commands[:, 0]) / T
    assert np.abs(np.diff(speed)).max() / T < 4.0


def test_after_the_last_target_it_brakes_and_holds():
    box = Mailbox(chunk())
    core, _, _ = run(fresh(), box, 100)
    core, commands, events = run(core, box, 60, start_tick=100)
    assert core.resting
    assert commands[-1][0] == commands[-2][0]
    assert commands[-1][0] > chunk().targets[-1][0], "it slows down along its way instead of stopping dead"
    assert events == []


def test_a_stop_brakes_within_the_acceleration_limit():
    core, commands, _ = run(fresh(), Mailbox(chunk()), 60)
    speed = core.gate.velocity[0]
    core, after, _ = run(core, Mailbox(stop=True), 30, start_tick=60)
    assert core.resting
    steps = np.diff(np.concatenate([commands[-2:, 0], after[:, 0]])) / T
    assert np.abs(np.diff(steps)).max() <= 4.0 * T + 1e-9
    assert np.count_nonzero(steps > 1e-12) <= math.ceil(speed / (4.0 * T)) + 2


def test_a_following_chunk_is_joined_without_a_kink():
    core, first, _ = run(fresh(), Mailbox(chunk()), 100)
    more = [chunk().targets[-1][0] + 0.0126 * (k + 1) for k in range(10)]
    _, second, events = run(core, Mailbox(chunk(1, 2.0, more)), 50, start_tick=100)
    speed = np.diff(np.concatenate([first[:, 0], second[:, 0]])) / T
    assert np.abs(np.diff(speed)).max() <= 4.0 * T + 1e-9
    assert events == []


def test_a_repeated_chunk_is_not_played_again_and_an_older_one_is_refused():
    box = Mailbox(chunk())
    core, _, _ = run(fresh(), box, 200)
    held = core.gate.position
    core, _, _ = run(core, box, 50, start_tick=200)
    assert core.gate.position == held
    core, _, _ = run(core, Mailbox(chunk(-1)), 10, start_tick=250)
    assert core.gate.position == held


def test_an_older_sequence_is_told_once():
    core, _, _ = run(fresh(), Mailbox(chunk(5)), 200)
    _, _, events = run(core, Mailbox(chunk(4, 4.0)), 50, start_tick=200)
    assert [event.log_code for event in events] == ["MOTION_SEQUENCE"]


def test_a_chunk_that_is_wholly_past_holds():
    _, commands, events = run(fresh(), Mailbox(chunk(0, -9.0)), 20, start_tick=100)
    assert [event.log_code for event in events] == ["MOTION_LATE"]
    assert (commands == commands[0]).all()


def test_a_chunk_whose_first_targets_are_past_is_joined_at_the_rest():
    _, commands, _ = run(fresh(), Mailbox(chunk(0, 0.0, [0.01] * 5 + [0.02 * k for k in range(1, 11)])), 100, 25)
    assert commands[5 * 10 - 1][0] == pytest.approx(0.2, abs=1e-2)
    assert (np.abs(np.diff(commands[:, 0])) <= 1.0 * T + 1e-9).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_target_that_is_not_finite_latches(bad):
    core, commands, events = run(fresh(), Mailbox(chunk(0, 0.0, [0.01, bad, 0.02])), 50)
    assert core.gate.latched == "GATE_NONFINITE"
    assert np.isfinite(commands).all()
    assert [event.log_code for event in events] == ["GATE_NONFINITE"]
    core, _, _ = run(core, Mailbox(chunk(1, 1.0)), 50, start_tick=50)
    assert core.gate.latched == "GATE_NONFINITE"


def test_a_jump_is_slowed_down_and_told_once():
    _, commands, events = run(fresh(), Mailbox(chunk(0, 0.0, [0.9, -0.9, 0.9])), 60)
    assert [event.log_code for event in events] == ["GATE_FAST"]
    speed = np.diff(commands[:, 0]) / T
    assert np.abs(speed).max() <= 1.0 + 1e-6
    assert np.abs(np.diff(speed)).max() / T <= 4.0 + 1e-4


@pytest.mark.parametrize("row", [(0.01,), (0.01, 0.5, 0.0), ()])
def test_a_target_of_another_size_latches_instead_of_breaking_the_tick(row):
    sick = JointChunk(0, (0.1, 0.2, 0.3), ((0.01, 0.5), row, (0.02, 0.5)))
    core, commands, events = run(fresh(), Mailbox(sick), 50)
    assert core.gate.latched == "GATE_SHAPE"
    assert (commands == (0.0, 0.5)).all(), "a chunk with an unsound target is not begun"
    assert [event.log_code for event in events] == ["GATE_SHAPE"]


def test_a_chunk_that_turns_out_unsound_brakes_what_was_moving():
    core, before, _ = run(fresh(), Mailbox(chunk()), 60)
    assert core.gate.velocity[0] > 0.05
    core, after, _ = run(core, Mailbox(chunk(1, 1.2, [0.3, math.nan])), 40, start_tick=60)
    assert core.resting
    speed = np.diff(np.concatenate([before[-2:, 0], after[:, 0]])) / T
    assert np.abs(np.diff(speed)).max() <= 4.0 * T + 1e-9


def test_a_latch_keeps_its_first_reason_and_is_told_once():
    core, _, first = run(fresh(), Mailbox(chunk(0, 0.0, [math.nan])), 20)
    core, _, second = run(core, Mailbox(JointChunk(1, (1.0,), ((0.1,),))), 20, start_tick=20)
    assert core.gate.latched == "GATE_NONFINITE"
    assert [event.log_code for event in (*first, *second)] == ["GATE_NONFINITE"]


def test_each_chunk_is_told_of_its_own_clamping():
    core, _, first = run(fresh(), Mailbox(chunk(0, 0.0, [0.9, -0.9])), 30)
    _, _, second = run(core, Mailbox(chunk(1, 0.6, [0.9, -0.9])), 30, start_tick=30)
    assert [event.log_code for event in first] == ["GATE_FAST"]
    assert [event.log_code for event in second] == ["GATE_FAST"]


@pytest.mark.parametrize("times", [(0.1, 0.1), (0.2, 0.1), (0.1, math.nan), (0.1, math.inf), (-math.inf, 0.1), (0.1,)])
def test_a_chunk_with_senseless_times_cannot_be_made(times):
    with pytest.raises(ShapeError):
        JointChunk(0, times, ((0.0, 0.5), (0.1, 0.5)))


@pytest.mark.parametrize("measured", [(math.nan, 0.5), (0.0, math.inf), (0.0,), (0.0, 0.5, 0.0)])
def test_an_arm_that_is_nowhere_is_not_started(measured):
    with pytest.raises(RobotCommunicationError) as caught:
        motion.start(LIMITS, T, measured)
    assert (caught.value.exit_code, caught.value.log_code) == (40, "ARM_MEASURED")


def test_an_arm_found_just_outside_its_limits_starts_at_them():
    assert motion.start(LIMITS, T, (1.0 + 1e-4, -1e-4)).gate.position == (1.0, 0.0)


@pytest.mark.parametrize("wrong", ["0.1", None, True, Decimal("0.1"), 10**400, 1j, [0.1]])
@pytest.mark.parametrize("place", ["time", "target"])
def test_a_chunk_of_what_is_no_number_cannot_be_made(wrong, place):
    times, first = ((wrong, 0.2), 0.0) if place == "time" else ((0.1, 0.2), wrong)
    with pytest.raises(ShapeError) as caught:
        JointChunk(0, times, ((first, 0.5), (0.1, 0.5)))
    assert caught.value.log_code == "CHUNK_TYPE"


@pytest.mark.parametrize(
    ("times", "targets"),
    [
        (None, ()),
        (0.1, ((0.0, 0.5),)),
        ({0.1}, ((0.0, 0.5),)),
        ("ab", "cd"),
        ((0.1,), None),
        ((0.1,), (None,)),
        ((0.1,), (0.5,)),
        ((0.1,), ({0.0, 0.5},)),
    ],
)
def test_a_chunk_of_what_is_no_row_cannot_be_made(times, targets):
    with pytest.raises(ShapeError):
        JointChunk(0, times, targets)


@pytest.mark.parametrize("sequence", ["1", 1.0, True, None])
def test_a_sequence_is_a_whole_number(sequence):
    with pytest.raises(ShapeError):
        JointChunk(sequence, (0.1,), ((0.0, 0.5),))


def test_a_chunk_in_single_precision_is_kept_and_played_in_double():
    made = JointChunk(0, np.float32([0.1, 0.2]), np.float32([[0.1, 0.5], [0.2, 0.5]]))
    assert all(type(value) is float for value in (*made.times_s, *made.targets[0], *made.targets[1]))
    _, commands, _ = run(fresh(), Mailbox(made), 20)
    assert commands.dtype == np.float64


@pytest.mark.parametrize("back", [0.2, -1.0, -1e300, math.nan, math.inf, -math.inf, None, "0.5", 10**400])
def test_a_clock_that_goes_back_or_is_none_brakes_and_latches(back):
    core, commands, _ = run(fresh(), Mailbox(chunk()), 40)
    assert abs(core.gate.velocity[0]) > 0
    core, command, event = motion.step(core, back, Mailbox(chunk()))
    assert event.log_code == core.gate.latched == "MOTION_CLOCK"
    assert event.time_s == 39 * T
    speed = abs(command[0] - commands[-1][0]) / T
    assert speed < abs(commands[-1][0] - commands[-2][0]) / T, "it brakes"
    core, _, events = run(core, Mailbox(chunk()), 60, start_tick=40)
    assert core.resting
    assert events == [], "told once"
    assert core.gate.latched == "MOTION_CLOCK", "only a human re-arms"
