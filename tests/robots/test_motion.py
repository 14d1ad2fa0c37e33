"""The pure motion core on a virtual clock."""

import math
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from dvgwm.robots import messages, motion
from dvgwm.robots.a1_model import SAFETY
from dvgwm.robots.limits import JointLimits, SafetyLimits
from dvgwm.robots.motion import JointChunk, Mailbox
from dvgwm.runtime.errors import GateLatchError, RobotCommunicationError, ShapeError

JOINTS = JointLimits((-1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (4.0, 10.0))
LIMITS = SafetyLimits(JOINTS, leap=(2.0, 2.0), jump=(0.1, 0.1), tracking=(0.1, 0.1))
T = 0.02


def chunk(sequence=0, start_s=0.0, values=None):
    values = [0.3 * (1 - math.cos(0.5 * 0.1 * k)) for k in range(1, 21)] if values is None else values
    times = tuple(start_s + 0.1 * (k + 1) for k in range(len(values)))
    return JointChunk(sequence, times, tuple((v, 0.5) for v in values))


def run(core, box, ticks, start_tick=0):
    commands, events = [], []
    for tick in range(start_tick, start_tick + ticks):
        core, verdict, event = motion.step(core, tick * T, box)
        commands.append(verdict.position)
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


@pytest.mark.parametrize(
    ("measured", "said"), [((1.05, 0.5), None), ((1.2, 0.5), "joint 1 stands at 1.200"), ((0.0, -0.2), "joint 2")]
)
def test_an_arm_that_stands_outside_is_not_moved(measured, said):
    if said is None:
        assert motion.start(LIMITS, T, measured).gate.position == (1.0, 0.5), "a sensor's noise"
        return
    with pytest.raises(GateLatchError, match=said) as caught:
        motion.start(LIMITS, T, measured)
    assert caught.value.log_code == "ARM_OUTSIDE"


def test_a_tool_that_stands_outside_is_not_moved():
    home = (0.0, 1.58, -1.14, 1.57, -1.13, 0.0, 0.5)
    above = replace(SAFETY.workspace, lower_m=(-0.8, -0.8, 0.3))
    with pytest.raises(GateLatchError, match="tool stands outside"):
        motion.start(replace(SAFETY, workspace=above), T, home)


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


def test_a_fourth_chunk_within_a_minute_that_is_wholly_past_latches():
    core, told = fresh(), []
    for number, at_s in enumerate((10.0, 30.0, 50.0, 75.0, 80.0)):
        core, _, events = run(core, Mailbox(chunk(number, at_s - 9.0)), 2, start_tick=round(at_s / T))
        core = replace(core, now_s=-math.inf)  # the minutes between are left out
        told += [event.log_code for event in events]
        assert (core.gate.latched is None) == (at_s < 80.0), "the first one is older than a minute by then"
    assert told == ["MOTION_LATE"] * 4 + ["MOTION_LATES"]
    assert messages.stopped(core.gate.latched).exit_code == 33


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
    assert [event.log_code for event in events] == ["MOTION_FAST"]
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
    assert [event.log_code for event in first] == ["MOTION_FAST"]
    assert [event.log_code for event in second] == ["MOTION_FAST"]


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
    core, verdict, event = motion.step(core, back, Mailbox(chunk()))
    assert event.log_code == core.gate.latched == "MOTION_CLOCK"
    assert event.time_s == 39 * T
    speed = abs(verdict.position[0] - commands[-1][0]) / T
    assert speed < abs(commands[-1][0] - commands[-2][0]) / T, "it brakes"
    core, _, events = run(core, Mailbox(chunk()), 60, start_tick=40)
    assert core.resting
    assert events == [], "told once"
    assert core.gate.latched == "MOTION_CLOCK", "only a human re-arms"


def well(now_s, chunk=None, **more):
    """Return what is known when all is well."""
    return replace(Mailbox(chunk, measured_s=now_s, frame_s=now_s, heartbeat_s=now_s), **more)


def play(core, ticks, ill, box=None, begin=0):
    """Return the core after ``ticks``, the log codes told and the speeds; ``ill`` gives what is wrong at a tick."""
    codes, speeds = [], []
    for tick in range(begin, begin + ticks):
        core, _, event = motion.step(core, tick * T, well(tick * T, box, **ill(tick)))
        codes += [event.log_code] if event else []
        speeds.append(core.gate.velocity[0])
    return core, codes, speeds


ILL = {
    "heartbeat": ("heartbeat_s", 0.09, "GATE_HEARTBEAT"),
    "state": ("measured_s", 0.06, "ROBOT_SILENT"),
}


@pytest.mark.parametrize("name", ILL)
def test_what_falls_silent_brakes_within_its_age(name):
    field, age_s, log_code = ILL[name]
    since = 40 * T
    core, codes, speeds = play(fresh(), 80, lambda tick: {field: min(tick * T, since)}, chunk())
    assert codes == [log_code]
    assert core.gate.latched == log_code
    assert core.resting
    braking = 40 + math.floor(age_s / T + 1e-9) + 1
    assert abs(speeds[braking]) < abs(speeds[braking - 1])
    assert abs(speeds[braking - 1]) > abs(speeds[braking - 2]) > 0


def test_a_camera_that_stalls_pauses_and_may_come_back():
    """Braked after .15 s; what was being played is dropped; ten ticks with a frame later the next chunk is played."""
    core, codes, speeds = play(fresh(), 70, lambda tick: {"frame_s": min(tick, 40) * T}, chunk())
    assert codes == ["GATE_FRAME"]
    assert core.gate.latched is None
    assert core.resting
    assert core.pause.since_s == 48 * T
    assert abs(speeds[47]) > abs(speeds[48])
    at = core.gate.position[0]
    again = chunk(1, 1.4, [at + 0.0005 * k * k for k in range(1, 20)])
    core, codes, speeds = play(core, 40, lambda tick: {}, again, begin=70)
    assert codes == []
    assert core.pause is None
    assert [abs(speed) > 0 for speed in speeds[:12]] == [False] * 10 + [True] * 2
    assert core.pauses == (48 * T,)


def test_a_frame_now_and_then_does_not_end_a_pause():
    core, _, _ = play(fresh(), 70, lambda tick: {"frame_s": min(tick, 40) * T}, chunk())
    core, _, _ = play(core, 60, lambda tick: {"frame_s": (tick - 20 * (tick % 9 == 0)) * T}, chunk(1, 1.5), begin=70)
    assert core.pause is not None
    assert core.sequence == 0


def test_a_pause_of_more_than_five_seconds_latches():
    core, codes, _ = play(fresh(), 48 + 251, lambda tick: {"frame_s": min(tick, 40) * T}, chunk())
    assert core.gate.latched is None
    core, codes, _ = play(core, 1, lambda tick: {"frame_s": 40 * T}, chunk(), begin=48 + 251)
    assert codes == [core.gate.latched] == ["MOTION_PAUSED"]
    assert messages.stopped("MOTION_PAUSED").exit_code == 20


@pytest.mark.parametrize("apart_s", [2.0, 31.0])
def test_a_fourth_pause_within_a_minute_latches(apart_s):
    core, codes, ticks = fresh(), [], round(apart_s / T)
    for turn in range(5):
        begin = turn * ticks
        box = chunk(turn, begin * T, [core.gate.position[0] + 0.001 * k for k in range(1, 20)])
        core, told, _ = play(
            core, ticks, lambda tick, b=begin: {"frame_s": tick * T if tick > b + 30 else b * T}, box, begin
        )
        codes += told
    if apart_s > 20:
        assert core.gate.latched is None
        assert len(core.pauses) <= 3
        return
    assert core.gate.latched == "MOTION_PAUSES"
    assert codes == ["GATE_FRAME"] * 3 + ["MOTION_PAUSES"]


def test_actions_from_what_was_seen_too_long_ago_are_dropped():
    old = JointChunk(0, tuple(9.0 + 0.1 * k for k in range(1, 30)), tuple((0.01 * k, 0.5) for k in range(1, 30)), -0.5)
    core, _, _ = play(fresh(), 480, lambda tick: {}, old)
    assert core.sequence == 0
    core, codes, _ = play(core, 40, lambda tick: {}, old, begin=480)
    assert codes == []
    core, codes, _ = play(fresh(), 560, lambda tick: {}, old)
    assert codes == ["GATE_STALE"]
    assert core.gate.latched is None
    assert core.resting
    core, codes, _ = play(core, 20, lambda tick: {}, chunk(1, 11.2, [core.gate.position[0] + 0.01]), begin=560)
    assert codes == [], "the next one is played"


def test_ticks_that_were_left_out_latch():
    core, _, _ = play(fresh(), 40, lambda tick: {}, chunk())
    same, _, _ = motion.step(core, (39 + 5) * T, well(44 * T, chunk()))
    assert same.gate.latched is None
    late, _, event = motion.step(core, (39 + 5.1) * T, well(44.1 * T, chunk()))
    assert late.gate.latched == event.log_code == "MOTION_GAP"
    assert abs(late.gate.velocity[0]) < abs(core.gate.velocity[0])


def test_a_tick_before_its_time_repeats_the_last_command():
    core, _, _ = play(fresh(), 40, lambda tick: {}, chunk())
    same, verdict, event = motion.step(core, 39.4 * T, well(39.4 * T, chunk()))
    assert (same, verdict.position, event) == (core, core.gate.position, None)
    after, verdict, _ = motion.step(core, 39.6 * T, well(39.6 * T, chunk()))
    assert after != core


@pytest.mark.parametrize(
    ("values", "log_code"),
    [
        ([1.2, 0.0], "MOTION_LIMIT"),
        ([0.5, 3.0], "MOTION_LIMIT"),
        ([0.5, 3.01], "MOTION_RANGE"),
        ([0.0, -57.0], "MOTION_RANGE"),
        ([-1.19], "MOTION_LIMIT"),
    ],
)
def test_a_chunk_far_outside_of_its_range_is_not_begun(values, log_code):
    core, codes, speeds = play(fresh(), 100, lambda tick: {}, chunk(0, 0.0, values))
    assert log_code in codes
    assert (core.gate.latched == log_code) == (log_code == "MOTION_RANGE")
    assert any(speeds) == (log_code == "MOTION_LIMIT")


@pytest.mark.parametrize(("start_s", "latches"), [(0.0, False), (-0.1, True)])
def test_a_chunk_that_begins_far_from_where_the_arm_is_is_not_begun(start_s, latches):
    """The first target that is still ahead counts: where the near one is past, the far one is the first."""
    limits = replace(LIMITS, leap=(0.2, 2.0))
    core = motion.start(limits, T, (0.0, 0.5))
    core, codes, _ = play(core, 5, lambda tick: {}, chunk(0, start_s, [0.2, 0.21, 0.3]))
    assert (core.gate.latched == "MOTION_LEAP") == latches
    assert ("MOTION_LEAP" in codes) == latches


def test_a_robot_that_stops_itself_gets_nothing_more():
    sent = []
    core = fresh()
    for tick in range(60):
        core, verdict, _ = motion.step(core, tick * T, well(tick * T, chunk(), stopped=tick == 40))
        sent.append(verdict.send)
    assert sent == [True] * 40 + [False] * 20
    _, verdict, _ = motion.step(core, 59.2 * T, well(59.2 * T))
    assert not verdict.send, "nor before its time"
    assert messages.stopped(core.gate.latched).exit_code == 41


def test_an_arm_that_stays_behind_is_let_go():
    """It is measured where it was: after three ticks beyond its limit the command goes back there."""
    core, codes = fresh(), []
    for tick in range(150):
        core, verdict, event = motion.step(core, tick * T, well(tick * T, chunk(), measured=(0.0, 0.5)))
        codes += [event.log_code] if event else []
    assert codes == ["GATE_TRACKING"]
    assert verdict.position == (0.0, 0.5)
    assert core.resting


def test_every_code_has_a_sentence_and_every_latch_an_end():
    text = "".join(
        (Path(motion.__file__).parent / name).read_text() for name in ("gate.py", "motion.py", "messages.py")
    )
    used = set(re.findall(r'"((?:GATE|MOTION|ROBOT)_[A-Z_]+)"', text)) | {
        "GATE_LIMIT",
        "GATE_FAST",
        "MOTION_LIMIT",
        "MOTION_FAST",
    }
    assert used == set(messages.MESSAGES)
    for code in used:
        error = messages.stopped(code)
        assert error.log_code == code
        assert error.exit_code in (20, 33, 40, 41, 42)
