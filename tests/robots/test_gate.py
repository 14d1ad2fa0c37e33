"""The gate, check by check."""

import math
import random
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from dvgwm.robots import braking, gate
from dvgwm.robots.a1_model import SAFETY
from dvgwm.robots.chain import tool
from dvgwm.robots.limits import JointLimits, SafetyLimits
from dvgwm.runtime.errors import ConfigError

JOINTS = JointLimits((-1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (4.0, 10.0))
LIMITS = SafetyLimits(JOINTS, leap=(2.0, 2.0), jump=(0.5, 0.5), tracking=(0.1, math.inf))
PERIOD_S = 0.02
REST = gate.rest((0.0, 0.5))


def moving(ticks=20, limits=LIMITS):
    """Return the state of an arm on its way at half of its top speed."""
    state = REST
    for tick in range(1, ticks + 1):
        state, verdict = gate.check(limits, PERIOD_S, state, (state.position[0] + min(0.001 * tick, 0.01), 0.5))
        assert verdict.log_code is None
    return state


def brakes(before, after):
    """Assert that every joint is slower by all that it may be."""
    for v, w, a in zip(before.velocity, after.velocity, JOINTS.acceleration, strict=True):
        assert abs(w) == pytest.approx(max(abs(v) - a * PERIOD_S, 0.0), abs=1e-12)
        assert v * w >= 0.0


def play(state, target, ticks, limits=LIMITS, reading=gate.FRESH):
    """Return the state after asking for one thing again and again, and the verdicts."""
    verdicts = []
    for _ in range(ticks):
        state, verdict = gate.check(limits, PERIOD_S, state, target, reading)
        verdicts.append(verdict)
    return state, verdicts


def test_a_smooth_command_passes_bit_for_bit():
    state = gate.rest((0.0, 0.5))
    for tick in range(1, 500):
        t = tick * PERIOD_S
        target = (0.4 * math.sin(t) ** 3, 0.5 + 0.3 * math.sin(0.7 * t) ** 3)
        state, verdict = gate.check(LIMITS, PERIOD_S, state, target)
        assert verdict.log_code is None
        assert verdict.position == target


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(("joint", "most", "change"), [(0, 1.0, 0.08), (1, 2.0, 0.2)])
def test_every_speed_and_its_change_has_a_limit_both_ways(sign, joint, most, change):
    """From rest as fast as may be to the top speed, past it not at all, and back the other way no faster than it may turn."""
    joints = replace(JOINTS, lower=(-9.0, -9.0), upper=(9.0, 9.0))
    state = gate.rest((0.0, 0.0))
    for ticks, way in ((40, sign), (70, -sign)):
        for _ in range(ticks):
            target = [q + 99.0 * way * (index == joint) for index, q in enumerate(state.position)]
            position, velocity, found = braking.nearest(joints, PERIOD_S, state, target)
            before, after = state.velocity[joint], velocity[joint]
            assert after == pytest.approx(max(min(before + way * change, most), -most), abs=1e-12)
            assert position[joint] == pytest.approx(state.position[joint] + after * PERIOD_S, abs=1e-12)
            assert found == ("LIMIT", joint)
            state = gate.GateState(position, velocity)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_both_ends_of_a_range_are_reached_without_a_stop_that_is_too_hard(sign):
    state = gate.rest((-0.9 * sign, 0.5))
    for _ in range(200):
        position, velocity, _ = braking.nearest(JOINTS, PERIOD_S, state, (9.0 * sign, 0.5))
        seen = (position[0] - state.position[0]) / PERIOD_S
        assert abs(seen - state.velocity[0]) <= 4.0 * PERIOD_S + 1e-9
        state = gate.GateState(position, velocity)
    assert state.position[0] == pytest.approx(sign, abs=1e-6)


def test_what_is_exact_but_for_a_rounding_keeps_its_own_speed():
    state = gate.GateState((0.0, 0.5), (1.0, 0.0))
    target = (0.02 + 1e-12, 0.5)
    _, velocity, found = braking.nearest(JOINTS, PERIOD_S, state, target)
    assert (velocity[0], found) == (target[0] / PERIOD_S, None)
    assert velocity[0] > 1.0


def test_limits_themselves_pass():
    """A jump as far as may be; a tool on the faces of its workspace."""
    state, _ = gate.check(LIMITS, PERIOD_S, gate.rest((0.0, 0.5)), (0.5, 0.5))
    assert state.latched is None
    end, _ = tool(ARM.workspace.chain, HOME)
    for axis in range(3):
        for side in ("lower_m", "upper_m"):
            face = [*getattr(ARM.workspace, side)]
            face[axis] = end[axis]
            space = replace(ARM.workspace, **{side: tuple(face)})
            assert braking.misled(replace(ARM, workspace=space), PERIOD_S, HOME, (0.0,) * 7) is None
            face[axis] += 1e-9 if side == "lower_m" else -1e-9
            space = replace(ARM.workspace, **{side: tuple(face)})
            assert braking.misled(replace(ARM, workspace=space), PERIOD_S, HOME, (0.0,) * 7) == "GATE_WORKSPACE"


def test_a_rounding_past_the_limit_is_kept_inside_without_a_word():
    state, verdict = gate.check(LIMITS, PERIOD_S, gate.rest((1.0, 0.0)), (1.0 + 1e-12, -1e-12))
    assert verdict.position == (1.0, 0.0)
    assert verdict.log_code is None
    _, verdict = gate.check(LIMITS, PERIOD_S, state, (1.0 + 1e-6, 0.0))
    assert (verdict.position, verdict.log_code) == ((1.0, 0.0), "GATE_LIMIT")


def test_a_target_at_the_limit_is_reached():
    state = REST
    for _ in range(300):
        nearest, _, _ = braking.nearest(JOINTS, PERIOD_S, state, (1.0, 1.0))
        state, verdict = gate.check(LIMITS, PERIOD_S, state, nearest)
        assert verdict == gate.Verdict(nearest, None), "what is nearest passes"
    assert state.position == pytest.approx((1.0, 1.0), abs=1e-6)


WIDE = SafetyLimits(JOINTS, leap=(9.0, 9.0), jump=(99.0, 99.0), tracking=(0.1, math.inf))


@pytest.mark.parametrize(
    ("target", "log_code", "joint"),
    [
        ((0.9, 0.5), "GATE_FAST", 0),
        ((0.0, 0.9), "GATE_FAST", 1),
        ((9.0, 0.5), "GATE_LIMIT", 0),
        ((0.0, -3.0), "GATE_LIMIT", 1),
        ((0.9, 9.0), "GATE_FAST", 0),
        ((-9.0, 0.9), "GATE_LIMIT", 0),
    ],
)
def test_what_is_clamped_is_named_with_its_joint(target, log_code, joint):
    state, verdict = gate.check(WIDE, PERIOD_S, REST, target)
    assert (verdict.log_code, verdict.joint, state.latched, state.clamped) == (log_code, joint, None, 1)
    assert verdict.send


LATCHES = {
    "not finite": ((math.nan, 0.5), {}, "GATE_NONFINITE"),
    "infinite": ((0.3, -math.inf), {}, "GATE_NONFINITE"),
    "too short": ((0.3,), {}, "GATE_SHAPE"),
    "a jump": ((0.9, 0.5), {}, "GATE_JUMP"),
    "a jump back": ((-0.4, 0.5), {}, "GATE_JUMP"),
    "a silent planner": ((0.3, 0.5), {"heartbeat_age_s": 0.091}, "GATE_HEARTBEAT"),
    "a robot that stopped": ((0.3, 0.5), {"stopped": True}, "ROBOT_STOP"),
    "a silent robot": ((0.3, 0.5), {"state_age_s": 0.07}, "ROBOT_SILENT"),
    "a state that is no number": ((0.3, 0.5), {"measured": (math.nan, 0.5)}, "ROBOT_STATE"),
    "a state of another size": ((0.3, 0.5), {"measured": (0.3,)}, "ROBOT_STATE"),
}


@pytest.mark.parametrize("name", LATCHES)
@pytest.mark.parametrize("asked", [True, False])
def test_what_latches_brakes_at_once_and_holds_whatever_comes(name, asked):
    target, known, log_code = LATCHES[name]
    before = moving()
    if not asked:
        if not known:
            return  # nothing wrong with what is known, and nothing is asked for
        target = None
    state, verdict = gate.check(LIMITS, PERIOD_S, before, target, gate.Reading(**known))
    assert state.latched == verdict.log_code == log_code
    assert verdict.send == (log_code not in ("ROBOT_STOP", "ROBOT_SILENT"))
    brakes(before, state)
    assert verdict.position == state.position
    for _ in range(20):
        last = state
        state, verdict = gate.check(LIMITS, PERIOD_S, state, (0.3, 0.5))
        assert verdict.log_code == log_code
        assert verdict.send == (log_code not in ("ROBOT_STOP", "ROBOT_SILENT"))
        brakes(last, state)
    assert state.velocity == (0.0, 0.0)


@pytest.mark.parametrize(
    ("known", "log_code"),
    [
        ({"frame_age_s": 0.16}, "GATE_FRAME"),
        ({"frame_age_s": math.nan}, "GATE_FRAME"),
        ({"action_age_s": 10.1}, "GATE_STALE"),
        ({"action_age_s": -1e-9}, "GATE_STALE"),
        ({"action_age_s": 10.1, "frame_age_s": 0.16}, "GATE_FRAME"),
    ],
)
def test_what_is_too_old_brakes_and_goes_on(known, log_code):
    before = moving()
    state, verdict = gate.check(LIMITS, PERIOD_S, before, (0.3, 0.5), gate.Reading(**known))
    assert (verdict.log_code, state.latched, verdict.send) == (log_code, None, True)
    brakes(before, state)
    state, verdict = gate.check(LIMITS, PERIOD_S, state, state.position)
    assert verdict.log_code in (None, "GATE_FAST")
    _, verdict = gate.check(LIMITS, PERIOD_S, before, None, gate.Reading(**known))
    assert verdict.log_code is None, "who asks for a brake needs no frame"


@pytest.mark.parametrize(
    "known", [{}, {"heartbeat_age_s": 0.09, "state_age_s": 0.06, "frame_age_s": 0.15, "action_age_s": 10.0}]
)
def test_ages_up_to_their_limits_pass(known):
    state, verdict = gate.check(LIMITS, PERIOD_S, REST, (0.001, 0.5), gate.Reading((0.1, 0.0), **known))
    assert verdict == gate.Verdict((0.001, 0.5), None)
    assert state == gate.GateState((0.001, 0.5), (0.05, 0.0))


def test_the_first_check_that_fails_decides():
    wrong = {
        "heartbeat_age_s": 1.0, "stopped": True, "state_age_s": 1.0, "measured": (math.nan, 0.0),
        "frame_age_s": 1.0, "action_age_s": 99.0,
    }  # fmt: skip
    seen = []
    while wrong:
        _, verdict = gate.check(LIMITS, PERIOD_S, REST, (math.nan,), gate.Reading(**wrong))
        seen.append(verdict.log_code)
        del wrong[next(iter(wrong))]
    assert seen == ["GATE_HEARTBEAT", "ROBOT_STOP", "ROBOT_SILENT", "ROBOT_STATE", "GATE_FRAME", "GATE_STALE"]
    targets = (math.nan,), (math.nan, 0.5), (0.9, 0.5)
    codes = [gate.check(LIMITS, PERIOD_S, REST, target)[1].log_code for target in targets]
    assert codes == ["GATE_SHAPE", "GATE_NONFINITE", "GATE_JUMP"]
    latched = gate.latch(REST, "MOTION_CLOCK")
    assert gate.check(LIMITS, PERIOD_S, latched, (math.nan,), gate.Reading(stopped=True))[1].log_code == "MOTION_CLOCK"


@pytest.mark.parametrize("hold", [None, (0.1, 0.5)])
def test_a_robot_that_stops_or_falls_silent_after_a_latch_gets_nothing_either(hold):
    state = gate.latch(moving(), "GATE_JUMP", hold)
    for known, sent in (({}, True), ({"stopped": True}, False), ({"state_age_s": 0.07}, False), ({}, True)):
        state, verdict = gate.check(LIMITS, PERIOD_S, state, None, gate.Reading(**known))
        assert (verdict.send, verdict.log_code) == (sent, "GATE_JUMP")


@pytest.mark.parametrize("between", [1, 2, 5, 15])
def test_a_blocked_arm_is_seen_though_others_tell_of_it_in_between(between):
    """Of a second teller's states, which are what was commanded, one comes after every so many of the robot's own."""
    state = gate.rest((0.3, 0.5))
    for tick in range(60):
        seen = (-0.3, 0.5) if tick % (between + 1) else state.position
        state, _ = gate.check(LIMITS, PERIOD_S, state, state.position, gate.Reading(seen))
    assert state.latched == "GATE_TRACKING"


def test_a_robot_that_cannot_be_relied_on_is_braked_and_then_left_alone():
    state, sent = moving(), []
    brakes = []
    while not sent or sent[-1]:
        before = state
        state, verdict = gate.check(LIMITS, PERIOD_S, state, (0.9, 0.9), gate.Reading(untrusted=True))
        assert verdict.log_code == "ROBOT_UNTRUSTED"
        brakes.append(verdict.position == braking.slower(JOINTS, PERIOD_S, before.position, before.velocity)[0])
        sent.append(verdict.send)
    assert all(brakes)
    assert len(sent) > 3, "it moved"
    assert sent[-2:] == [True, False], "the last of the brake is sent, and nothing after it"
    for known in ({}, {"untrusted": True}):
        _, verdict = gate.check(LIMITS, PERIOD_S, state, None, gate.Reading(**known))
        assert (verdict.send, verdict.log_code) == (False, "ROBOT_UNTRUSTED")
    elsewhere = gate.latch(gate.rest((0.3, 0.5)), "GATE_JUMP")
    for untrusted in (False, True):
        _, verdict = gate.check(LIMITS, PERIOD_S, elsewhere, None, gate.Reading(untrusted=untrusted))
        assert verdict.send != untrusted, "after another latch, too"


def test_a_latch_keeps_its_first_reason():
    once = gate.latch(REST, "GATE_JUMP", (0.1, 0.5))
    assert (once.latched, once.hold) == ("GATE_JUMP", (0.1, 0.5))
    assert gate.latch(once, "ROBOT_STOP") == once


def test_an_arm_that_does_not_follow_is_not_pushed():
    """Within the limit it may lag for ever; the third tick within a second beyond brakes, then it goes to where it was seen."""
    state = gate.rest((0.3, 0.5))
    near, far = (0.21, 0.9), (-0.3, 0.9)
    state, verdicts = play(state, state.position, 30, reading=gate.Reading(near))
    assert {verdict.log_code for verdict in verdicts} == {None}
    assert state.strained == 0
    for reading in (far, *[near] * 49, far, near, far):
        state, verdict = gate.check(LIMITS, PERIOD_S, state, state.position, gate.Reading(reading))
        assert verdict.log_code is None
    assert state.strained == 0b101, "the first one was more than a second ago"
    state, verdict = gate.check(LIMITS, PERIOD_S, state, state.position, gate.Reading(far))
    assert state.latched == verdict.log_code == "GATE_TRACKING"
    speeds, places = [], [state.position]
    while any(state.velocity) or state.position != far:
        last = state
        state, verdict = gate.check(LIMITS, PERIOD_S, state, None, gate.Reading((9.0, 9.0)))
        assert verdict.send
        assert (verdict.position, verdict.log_code) == (state.position, "GATE_TRACKING")
        for v, w, a, most in zip(last.velocity, state.velocity, JOINTS.acceleration, JOINTS.velocity, strict=True):
            assert abs(w - v) <= a * PERIOD_S + 1e-9
            assert abs(w) <= most + 1e-9
        speeds.append(abs(state.velocity[0]))
        places.append(state.position)
        assert len(places) < 100
    assert min(place[0] for place in places) >= far[0], "it does not pass it"
    assert max(speeds) > 0.3, "it does not creep"


def test_it_goes_to_where_it_was_measured_only_inside_its_limits():
    state = replace(gate.rest((0.95, 0.5)), strained=0b11)
    state, _ = gate.check(LIMITS, PERIOD_S, state, None, gate.Reading((1.4, 0.5)))
    assert state.hold == (1.0, 0.5)
    state, _ = play(state, None, 60)
    assert state.position == (1.0, 0.5)


@pytest.mark.parametrize("clamped", [5, 6])
def test_more_than_a_tenth_of_a_second_clamped_latches(clamped):
    """At 50 ticks a second five clamps are passed, the sixth one within the second brakes."""
    state, good = REST, []
    for tick in range(50):
        soon = tick % 10 == 0 or (clamped == 6 and tick == 45)
        state, verdict = gate.check(LIMITS, PERIOD_S, state, (state.position[0] + (0.03 if soon else 0.0), 0.5))
        if state.latched is None and soon:
            assert verdict.log_code == "GATE_FAST"
        good.append(state.latched is None)
    if clamped == 5:
        assert all(good)
        return
    assert good.count(False) > 0


def test_clamps_are_forgotten_after_a_second():
    state = REST
    for _ in range(40):
        state, verdict = gate.check(LIMITS, PERIOD_S, state, (state.position[0] + 0.1, 0.5))
        assert verdict.log_code == "GATE_FAST"
        for _ in range(9):
            state, verdict = gate.check(LIMITS, PERIOD_S, state, None)
            assert verdict.log_code is None
    assert state.clamped.bit_count() == 5
    assert state.clamped < 2**50
    state, _ = play(state, None, 50)
    assert state.clamped == 0


def test_the_tick_that_is_one_clamp_too_many_brakes():
    state = moving()
    state, verdicts = play(state, (9.9, 0.5), 6, limits=replace(WIDE))
    assert [verdict.log_code for verdict in verdicts] == ["GATE_LIMIT"] * 5 + ["GATE_CLAMPED"]
    before = play(moving(), (9.9, 0.5), 5, limits=WIDE)[0]
    brakes(before, state)


ARM = replace(SAFETY, workspace=replace(SAFETY.workspace, lower_m=(0.1, -0.3, 0.1), upper_m=(0.5, 0.3, 0.4)))
HOME = (0.0, 1.58, -1.14, 1.57, -1.13, 0.0, 0.5)


def test_the_tool_brakes_in_time_for_every_face_of_its_workspace():
    """Joint by joint and both ways, faster and faster: it is stopped on the last tick from which it can be."""
    faces = set()
    for joint in range(5):
        for sign in (-1, 1):
            state, speed = gate.rest(HOME), 0.0
            for _ in range(300):
                speed = min(speed + 0.07, 0.9)
                target = tuple(q + sign * speed * PERIOD_S * (i == joint) for i, q in enumerate(state.position))
                after, verdict = gate.check(ARM, PERIOD_S, state, target)
                if verdict.log_code not in (None, "GATE_TOOL_FAST"):
                    break
                state = after
            if verdict.log_code != "GATE_WORKSPACE":
                continue
            assert after.clamped & 1
            assert braking.misled(
                ARM, PERIOD_S, target, tuple((t - q) / PERIOD_S for t, q in zip(target, state.position, strict=True))
            )
            state, _ = play(after, None, 40, limits=ARM)
            end, _ = tool(ARM.workspace.chain, state.position)
            room = [
                (at - low, high - at)
                for at, low, high in zip(end, ARM.workspace.lower_m, ARM.workspace.upper_m, strict=True)
            ]
            least, face = min((r, (axis, side)) for axis, rooms in enumerate(room) for side, r in enumerate(rooms))
            assert -1e-9 <= least < 0.02
            faces.add(face)
    assert len(faces) >= 4


def test_a_tool_that_is_too_fast_brakes():
    limits = replace(ARM, workspace=replace(ARM.workspace, speed_m_s=0.2))
    state, speed = gate.rest(HOME), 0.0
    for _ in range(50):
        before = state
        speed += 0.05
        state, verdict = gate.check(limits, PERIOD_S, state, (state.position[0] + speed * PERIOD_S, *HOME[1:]))
        if verdict.log_code is not None:
            break
        _, parts = tool(limits.workspace.chain, state.position)
        assert speed * math.hypot(*parts[0]) <= 0.2
    assert verdict.log_code == "GATE_TOOL_FAST"
    assert speed * math.hypot(*parts[0]) > 0.2
    assert state.clamped == 1
    assert abs(state.velocity[0]) == pytest.approx(abs(before.velocity[0]) - 0.08)


def test_a_gripper_does_not_move_the_tool():
    assert braking.misled(ARM, PERIOD_S, HOME, (0.0,) * 6 + (2.0,)) is None
    assert braking.misled(replace(ARM, workspace=None), PERIOD_S, HOME, (9.0,) * 7) is None
    assert braking.misled(ARM, PERIOD_S, (0.0, 0.2, *HOME[2:]), (0.0,) * 7) == "GATE_WORKSPACE"


def test_an_arm_that_does_not_follow_stays_in_the_workspace_on_its_way_back():
    """It was pushed out: it goes towards where it was seen as far as the workspace goes, and stops there."""
    outside = (0.0, 2.3, *HOME[2:])
    state = replace(gate.rest(HOME), strained=0b11)
    state, _ = gate.check(ARM, PERIOD_S, state, None, gate.Reading(outside))
    assert state.latched == "GATE_TRACKING"
    for _ in range(100):
        state, verdict = gate.check(ARM, PERIOD_S, state, None)
        assert (verdict.log_code, verdict.position) == ("GATE_TRACKING", state.position)
        end, _ = tool(ARM.workspace.chain, state.position)
        assert all(
            low <= at <= high for low, at, high in zip(ARM.workspace.lower_m, end, ARM.workspace.upper_m, strict=True)
        )
    assert state.hold is None
    assert not any(state.velocity)
    assert state.position[1] > HOME[1] + 0.05


def test_speed_cap_is_the_exact_inverse_of_the_tick_sum():
    rng = random.Random(1)
    for _ in range(2000):
        room, a = rng.uniform(0, 2), rng.uniform(0.5, 20)
        v, travelled = braking.speed_cap(room, a, PERIOD_S), 0.0
        while v > 0:
            travelled += v * PERIOD_S
            v -= a * PERIOD_S
        assert travelled == pytest.approx(room, abs=1e-9)
    assert braking.speed_cap(-1.0, 4.0, PERIOD_S) == 0.0


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


@pytest.mark.parametrize(
    "change",
    [
        {"leap": (1.0,)}, {"jump": ()}, {"tracking": (1.0,) * 3}, {"jump": (0.0, 1.0)}, {"tracking": (math.nan, 1.0)},
        {"leap": (-1.0, 1.0)}, {"action_age_s": 0.0}, {"state_age_s": math.nan}, {"frame_age_s": -1.0},
        {"heartbeat_age_s": 0.0},
    ],
)  # fmt: skip
def test_safety_limits_that_make_no_sense_are_refused(change):
    with pytest.raises(ConfigError):
        replace(LIMITS, **change)


@pytest.mark.parametrize(
    "change",
    [{"lower_m": (0.5, -0.3, 0.1)}, {"upper_m": (0.5, math.nan, 1.0)}, {"speed_m_s": 0.0}, {"speed_m_s": math.inf}],
)
def test_workspaces_that_make_no_sense_are_refused(change):
    with pytest.raises(ConfigError):
        replace(ARM.workspace, **change)


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
    _, verdict = gate.check(LIMITS, PERIOD_S, REST, (0.0, 0.5), gate.Reading(action_age_s=age_s))
    assert verdict.log_code == "GATE_STALE"


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble, Fraction])
def test_every_target_is_computed_in_double(kind):
    limits = replace(LIMITS, joints=replace(JOINTS, lower=(-0.1, 0.0), upper=(0.1, 1.0)))
    state = gate.rest((0.099, 0.5))
    for _ in range(5):
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


UNBOUND = replace(ARM, workspace=replace(ARM.workspace, lower_m=(-9.0,) * 3, upper_m=(9.0,) * 3, speed_m_s=99.0))


def place_of(joints):
    return np.array(tool(ARM.workspace.chain, joints)[0])


def fastest(position, velocity):
    """Return how fast the tool is at the beginning and at the end of this tick and of each one in which all joints brake."""
    rows, position, velocity = [], np.array(position), np.array(velocity)
    change = np.array(ARM.joints.acceleration) * PERIOD_S
    before = position - velocity * PERIOD_S
    while velocity[:6].any():
        small = 1e-5 * velocity
        ends = [np.linalg.norm(place_of(at + small) - place_of(at - small)) / 2e-5 for at in (before, position)]
        rows.append(ends)
        velocity = np.where(np.abs(velocity) <= change, 0.0, velocity - np.sign(velocity) * change)
        before, position = position, position + velocity * PERIOD_S
    return np.array(rows)


def test_the_tool_is_as_fast_as_it_is_at_the_beginning_and_at_the_end_of_a_tick():
    """Of this one, and of every one of a brake; each of the two is the larger one somewhere."""
    rng, largest = np.random.default_rng(5), set()
    for _ in range(150):
        position = np.array([*rng.uniform((-1, 1.2, -1.8, -1, -1, -1), (1, 1.9, -0.6, 1, 1, 1)), 0.5])
        velocity = np.array([*rng.uniform(-1.0, 1.0, 6), 0.0]) * rng.choice((0.3, 1.0))
        speeds = fastest(position, velocity)
        most, second = speeds.max(), np.sort(speeds.max(0))[-2]
        if most > second * (1 + 4e-7):
            largest.add(int(speeds.max(0).argmax()))
        for share, found in ((1 + 2e-7, None), (1 - 2e-7, "GATE_TOOL_FAST")):
            limits = replace(UNBOUND, workspace=replace(UNBOUND.workspace, speed_m_s=share * most))
            assert braking.misled(limits, PERIOD_S, tuple(position), tuple(velocity)) == found
    assert largest == {0, 1}


def test_an_arm_goes_back_to_where_it_was_measured_no_faster_than_its_tool_may():
    """And all the way: for its tool's speed it does not give up, as for the edge of its workspace."""
    limits = replace(UNBOUND, workspace=replace(UNBOUND.workspace, speed_m_s=0.08))
    hold = tuple(q + d for q, d in zip(HOME, (0.3, 0.05, 0.1, 0.3, -0.2, 0.3, 0.0), strict=True))
    state, places = gate.latch(gate.rest(HOME), "GATE_TRACKING", hold), [HOME]
    for _ in range(300):
        state, verdict = gate.check(limits, PERIOD_S, state, None)
        assert verdict.log_code == "GATE_TRACKING"
        places.append(state.position)
    assert state.position == pytest.approx(hold, abs=1e-9)
    speeds = np.linalg.norm(np.diff([place_of(place) for place in places], axis=0), axis=1) / PERIOD_S
    assert speeds.max() == pytest.approx(0.08, rel=0.1)
    assert speeds.max() <= 0.08 + 1e-9


def test_on_its_way_back_an_arm_whose_tool_is_as_fast_as_it_may_be_is_braked():
    """However little it went on: then it goes on its way again."""
    hold, velocity = (HOME[0] + 1.0, *HOME[1:]), (0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    braked, slowed = braking.slower(UNBOUND.joints, PERIOD_S, HOME, velocity)
    limit = replace(UNBOUND.workspace, speed_m_s=fastest(braked, slowed).max() * (1 + 1e-7))
    limits = replace(UNBOUND, workspace=limit)
    state = replace(gate.latch(gate.rest(HOME), "GATE_TRACKING", hold), velocity=velocity)
    state, verdict = gate.check(limits, PERIOD_S, state, None)
    assert (verdict.position, verdict.log_code) == (braked, "GATE_TRACKING")
    assert (state.velocity, state.hold) == (slowed, hold)
    for _ in range(400):
        state, _ = gate.check(limits, PERIOD_S, state, None)
    assert state.position == pytest.approx(hold, abs=1e-9)
