"""The reference governor: it asks for as much as arm and tool can follow, and the gate behind it has nothing to do."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from dvgwm.robots import braking, gate, governor
from dvgwm.robots.a1_model import A1, SAFETY
from dvgwm.robots.chain import tool

T = A1.period_s
HOME = (0.0, 1.58, -1.14, 1.57, -1.13, 0.0, 0.5)
SPACE = SAFETY.workspace


def between(track, tick):
    """Return a plan: rows of positions, one a tick, and straight lines between them."""

    def plan(share):
        whole = min(math.floor(tick + share), len(track) - 2)
        rest = tick + share - whole
        return tuple(a + rest * (b - a) for a, b in zip(track[whole], track[whole + 1], strict=True))

    return plan


def follow(targets, state=None, limits=SAFETY):
    """Return the states of an arm that follows, the limits met, and the gate's log codes."""
    states, met, codes = [state or gate.rest(HOME)], [], []
    track, behind = (states[0].position, *targets), 0.0
    for tick in range(len(targets)):
        wanted, share, found = governor.govern(limits, T, states[-1], between(track, tick - behind))
        behind += 1.0 - share
        after, verdict = gate.check(limits, T, states[-1], wanted)
        states.append(after)
        met.append(found)
        codes.append(verdict.log_code)
    return states, met, codes


def speeds(states):
    """Return how fast the tool went between states, in m/s, as its places tell."""
    places = np.array([tool(SPACE.chain, state.position)[0] for state in states])
    return np.linalg.norm(np.diff(places, axis=0), axis=1) / T


def stretched(ticks):
    """Return targets that turn the stretched out arm by .8 rad about its base and bend its wrist, within the joints' limits."""
    begin = (0.0, 2.0, -1.6, 0.0, 0.0, 0.0, 0.5)
    turns = [0.4 * (1.0 - math.cos(math.pi * min(k / 65, 1.0))) for k in range(1, ticks + 1)]
    return gate.rest(begin), [(turn, *begin[1:4], 0.5 * turn, *begin[5:]) for turn in turns]


def test_what_can_be_followed_is_returned_as_it_is():
    targets = [tuple(q + 0.05 * (1 - math.cos(0.8 * T * k)) for q in HOME) for k in range(1, 300)]
    states, met, codes = follow(targets)
    assert [state.position for state in states[1:]] == targets
    assert set(met) == set(codes) == {None}


def test_a_tool_that_would_be_too_fast_goes_the_same_way_more_slowly():
    begin, targets = stretched(160)
    states, met, codes = follow(targets, begin)
    assert set(codes) == {None}, "nothing is left for the gate to do"
    assert ("TOOL_FAST", None) in met
    fast = speeds(states)
    assert fast.max() <= SPACE.speed_m_s + 1e-3
    assert np.percentile(fast[20:80], 50) > 0.97 * SPACE.speed_m_s, "no slower than it has to be"
    for state in states:
        assert state.position[4] == pytest.approx(0.5 * state.position[0], abs=2e-3), "on the plan's way"
    assert states[-1].position[0] == pytest.approx(0.8, abs=1e-4)


def test_joints_that_stayed_behind_catch_up_without_going_past():
    """The target leaps by .3 rad and stays: the last joint turns the tool in place, so nothing else is in the way."""
    states, met, codes = follow([(*HOME[:5], 0.3, HOME[6])] * 60)
    assert set(codes) == {None}
    assert ("FAST", 5) in met
    assert states[-1].position[5] == pytest.approx(0.3, abs=1e-6)
    assert max(state.position[5] for state in states) < 0.304
    state, most = gate.rest(HOME), 0.0
    for _ in range(60):
        near, _, _ = braking.nearest(SAFETY.joints, T, state, (*HOME[:5], 0.3, HOME[6]))
        state, _ = gate.check(SAFETY, T, state, near)
        most = max(most, state.position[5])
    assert most > 0.39, "a negative control: as fast as the joint can, it swings past"


def test_without_it_the_gate_brakes_and_latches():
    """A negative control: the same targets, as near as the joints alone can follow them."""
    begin, targets = stretched(120)
    state, codes = begin, []
    for target in targets:
        near, _, _ = braking.nearest(SAFETY.joints, T, state, target)
        state, verdict = gate.check(SAFETY, T, state, near)
        codes.append(verdict.log_code)
    assert {"GATE_TOOL_FAST", "GATE_CLAMPED"} <= set(codes)


def test_a_joint_that_was_too_fast_is_named():
    _, met, codes = follow([(*HOME[:5], 0.4, 0.5)] * 60)
    assert ("FAST", 5) in met
    assert set(codes) == {None}


def test_the_edge_of_the_workspace_is_approached_slowly():
    """The last target is inside, by two millimetres, but the plan goes there at full speed and stops dead."""
    over = tool(SPACE.chain, HOME)[0]
    limits = replace(SAFETY, workspace=replace(SPACE, lower_m=(*SPACE.lower_m[:2], over[2] - 0.1), speed_m_s=5.0))
    low = HOME
    while tool(SPACE.chain, low)[0][2] > over[2] - 0.098:
        low = (*low[:1], low[1] + 1e-4, *low[2:])
    down = [
        (HOME[0], min(HOME[1] + 0.0008 * k * k, HOME[1] + 0.02 * k - 0.125, low[1]), *HOME[2:]) for k in range(1, 80)
    ]
    states, met, codes = follow(down, limits=limits)
    assert set(codes) == {None}
    assert ("WORKSPACE", None) in met
    assert states[-1].position == pytest.approx(low, abs=1e-3)


def test_a_target_outside_of_the_workspace_is_the_gates_to_judge():
    down = [(HOME[0], HOME[1] + 0.012 * k, *HOME[2:]) for k in range(1, 200)]
    _, _, codes = follow(down)
    assert "GATE_WORKSPACE" in codes
    assert codes[-1] == "GATE_CLAMPED"


def test_a_tool_that_braking_would_make_faster_is_not_begun():
    """Joints whose motions cancel in part at the tool: the slower one is at rest first, and the tool goes with the other."""
    position = (0.1937115, 1.5074609, -1.7212625, 2.2214432, -0.3907948, -0.2609552, 0.0)
    velocity = (0.045114, 0.045114, -0.9022816, -0.9022816, -0.045114, 0.0, 1.8045632)
    _, columns = tool(SPACE.chain, position)
    assert braking._tool_speed(columns, velocity) < SPACE.speed_m_s, "now it is slow enough"
    assert braking.misled(SAFETY, T, position, velocity) == "GATE_TOOL_FAST"
    before = tuple(q - v * T for q, v in zip(position, velocity, strict=True))
    slow = tuple(0.95 * v for v in velocity)
    state = replace(gate.rest(before), velocity=slow)
    assert braking.misled(SAFETY, T, before, slow) is None
    asked, share, found = governor.govern(SAFETY, T, state, between((before, position), 0.0))
    assert found == ("TOOL_FAST", None)
    assert share < 1.0
    _, verdict = gate.check(SAFETY, T, state, asked)
    assert verdict.log_code is None, "the gate has nothing to do"
    _, verdict = gate.check(SAFETY, T, state, position)
    assert verdict.log_code == "GATE_TOOL_FAST", "and would see to it"


@pytest.mark.few(1)
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_asked_for_the_gate_has_nothing_to_do(seed):
    """Targets that leap about inside the workspace, ten a second."""
    rng, state, target, met = random.Random(seed), gate.rest(HOME), HOME, set()
    for tick in range(2_000):
        due = target
        if tick % 5 == 0:
            target = tuple(
                q + rng.uniform(-w, w) for q, w in zip(HOME, (2.0, 0.4, 0.4, 2.0, 1.0, 1.8, 0.5), strict=True)
            )
            if braking.misled(SAFETY, T, target, (0.0,) * 7) is not None:
                target = HOME
        wanted, _, found = governor.govern(SAFETY, T, state, between((due, target), 0.0))
        state, verdict = gate.check(SAFETY, T, state, wanted)
        assert verdict.log_code is None
        met.add(None if found is None else found[0])
    assert {"FAST", "TOOL_FAST"} <= met
