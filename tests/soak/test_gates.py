"""A million actions through the gate, from seeds, judged by an oracle that shares no code with it.

The oracle works on whole arrays of states, with matrices of its own; what it rechecks: positions, speeds, accelerations, a full
brake of joints and tool from every state, the tool's speed, and that what is not sound brakes.
"""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from dvgwm.robots import braking, gate
from dvgwm.robots.a1_model import ORIGINS, SAFETY, TOOL_LENGTH_M
from dvgwm.robots.limits import JointLimits, SafetyLimits, Workspace

T = 0.02
PLANAR = SafetyLimits(
    JointLimits((-1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (4.0, 10.0)), (2.0, 2.0), (0.1, 0.1), (0.05, math.inf)
)
SMALL = Workspace(SAFETY.workspace.chain, (0.15, -0.2, 0.06), (0.45, 0.2, 0.35), 0.4)
ARM = replace(SAFETY, workspace=SMALL)
HOME = (0.0, 1.58, -1.14, 1.57, -1.13, 0.0, 0.5)
BAD_AGES = (math.nan, math.inf, -1.0, 30.0, None)


def draw_target(rng, limits, state, goal):
    """Return a target: towards ``goal`` as fast or as far as may be, with noise, absurd, not finite, too long, none."""
    kind, joints = rng.random(), limits.joints
    rows = zip(state.position, state.velocity, goal, limits.jump, joints.acceleration, strict=True)
    if kind < 0.8:
        return [at + v * T + math.copysign(0.99 * a * T * T, to - at) for at, v, to, _, a in rows]
    if kind < 0.93:
        width = rng.choice((0.0005, 0.002, 0.01))
        return [at + v * T + rng.gauss(0.0, width) for at, v, _, _, _ in rows]
    if kind < 0.96:
        return [at + math.copysign(0.99 * jump, to - at) for at, _, to, jump, _ in rows]
    if kind < 0.98:
        return None
    if kind < 0.985:
        return [rng.uniform(low - 1.0, high + 1.0) for low, high in zip(joints.lower, joints.upper, strict=True)]
    if kind < 0.99:
        return [rng.uniform(-1e300, 1e300) for _ in joints.lower]
    if kind < 0.995:
        return [rng.choice((math.nan, math.inf, -math.inf, 0.0)) for _ in joints.lower]
    return [0.0] * rng.choice((0, 1, joints.dof + 1))


def draw_reading(rng, state):
    """Return a reading: sound, or too old, of a robot that stopped, that does not follow, or whose state is no number."""
    if rng.random() > 0.006:
        return gate.Reading(tuple(at + rng.gauss(0.0, 0.005) for at in state.position))
    name = rng.choice(("action_age_s", "state_age_s", "frame_age_s", "heartbeat_age_s", "measured", "stopped"))
    if name == "measured":
        return gate.Reading(tuple(at + rng.choice((0.2, -0.2, math.nan)) for at in state.position))
    return replace(gate.FRESH, **{name: True if name == "stopped" else rng.choice(BAD_AGES)})


def play(limits, home, seed, actions):
    """Return what the gate made of drawn requests: rows of position and speed before, position after, codes, what braked."""
    rng, state, goal, blocked = random.Random(seed), gate.rest(home), home, None
    before, speed, after, codes, broken = [], [], [], [], []
    for _ in range(actions):
        if rng.random() < 0.02:
            rows = zip(limits.joints.lower, limits.joints.upper, home, strict=True)
            goal = [rng.choice((low, high, rng.gauss(at, 0.3))) for low, high, at in rows]
        target, reading = draw_target(rng, limits, state, goal), draw_reading(rng, state)
        # Now and then the arm stays behind for some ticks, as one does that is blocked.
        if rng.random() < 0.003:
            blocked = tuple(at + rng.uniform(-0.3, 0.3) for at in state.position)
        elif rng.random() < 0.2:
            blocked = None
        made, verdict = gate.check(limits, T, state, target, reading if blocked is None else gate.Reading(blocked))
        assert verdict.position == made.position
        before.append(state.position)
        speed.append(state.velocity)
        after.append(made.position)
        codes.append(verdict.log_code)
        broken.append(target is None or verdict.log_code not in (None, "GATE_LIMIT", "GATE_FAST"))
        # A human re-arms after a while: the arm may still be braking, or on its way to where it was measured.
        state = gate.GateState(made.position, made.velocity) if made.latched and rng.random() < 0.2 else made
    return np.array(before), np.array(speed), np.array(after), codes, np.array(broken)


def turned(axis, angle):
    c, s, i, j = np.cos(angle), np.sin(angle), (axis + 1) % 3, (axis + 2) % 3
    matrix = np.broadcast_to(np.eye(4), (*np.shape(angle), 4, 4)).copy()
    matrix[..., i, i] = matrix[..., j, j] = c
    matrix[..., i, j], matrix[..., j, i] = -s, s
    return matrix


def tools(q):
    """Return where the A1's tool is for rows of joints, N x 3."""
    frame = np.eye(4)
    for joint, (xyz, (roll, pitch, yaw)) in enumerate(ORIGINS):
        offset = np.eye(4)
        offset[:3, 3] = xyz
        frame = frame @ (offset @ turned(2, yaw) @ turned(1, pitch) @ turned(0, roll)) @ turned(2, q[:, joint])
    return (frame @ np.array([0.0, 0.0, TOOL_LENGTH_M, 1.0]))[:, :3]


def violations(limits, before, speed, after, codes, broken):
    """Return the names of all that is wrong anywhere."""
    wrong, joints = set(), limits.joints
    lower, upper, most, a = (
        np.array(row) for row in (joints.lower, joints.upper, joints.velocity, joints.acceleration)
    )
    v, c = (after - before) / T, a * T
    if not np.isfinite(after).all() or (after < lower).any() or (after > upper).any():
        wrong.add("position")
    if (np.abs(v) > most + 1e-6).any():
        wrong.add("velocity")
    if (np.abs(v - speed) > c + 1e-6).any():
        wrong.add("acceleration")
    stopping = np.array([code not in ("GATE_TRACKING",) for code in codes]) & broken
    if (np.abs(v) > np.maximum(np.abs(speed) - c, 0.0) + 1e-6)[stopping].any():
        wrong.add("no brake")
    if limits.workspace is not None:
        faster = (
            np.linalg.norm(tools(after + 1e-6 * v) - tools(after), axis=1) / 1e-6 > limits.workspace.speed_m_s + 1e-4
        )
        wrong |= {"tool speed"} if faster[~broken].any() else set()
    place, moving = after.copy(), v.copy()
    while moving.any():
        wrong |= outside(limits, place)
        moving = np.where(np.abs(moving) <= c + 1e-9, 0.0, moving - np.sign(moving) * c)
        place = place + moving * T
    return wrong | outside(limits, place)


def outside(limits, place):
    """Return the names of the limits that rows of joints are outside of while they brake."""
    joints, space, wrong = limits.joints, limits.workspace, set()
    if (place < np.array(joints.lower) - 1e-7).any() or (place > np.array(joints.upper) + 1e-7).any():
        wrong.add("stopping distance")
    if space is not None:
        at = tools(place)
        if (at < np.array(space.lower_m) - 1e-6).any() or (at > np.array(space.upper_m) + 1e-6).any():
            wrong.add("workspace")
    return wrong


ALWAYS = {
    None, "GATE_FAST", "GATE_LIMIT", "GATE_JUMP", "GATE_NONFINITE", "GATE_SHAPE", "GATE_CLAMPED", "GATE_TRACKING",
    "GATE_STALE", "GATE_FRAME", "GATE_HEARTBEAT", "ROBOT_SILENT", "ROBOT_STATE", "ROBOT_STOP",
}  # fmt: skip
SHARE = 125_000


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize(("limits", "home"), [(PLANAR, (0.0, 0.5)), (ARM, HOME)], ids=["planar", "a1"])
def test_no_action_of_a_million_is_unsafe(limits, home, part, soak):
    """Of ten million with ``--soak``."""
    made = play(limits, home, soak.seed * 10 + part, SHARE * (10 if soak.all else 1))
    assert not violations(limits, *made)
    of_tool = {"GATE_WORKSPACE", "GATE_TOOL_FAST"} if limits.workspace is not None else set()
    assert set(made[3]) == ALWAYS | of_tool, "every check decided"
    assert np.ptp(made[2], 0).min() > 0.3, "the arm went about"
    assert np.abs(made[1]).max(0) == pytest.approx(np.array(limits.joints.velocity), rel=0.2), (
        "and was as fast as it may be"
    )


WRONG = {
    "the textbook's stopping distance": (
        "speed_cap",
        lambda room, a, dt: math.sqrt(2 * a * max(room, 0.0)),
        "stopping distance",
    ),
    "no tool": ("misled", lambda *_: None, "workspace"),
    "a tool that stops at once": ("slower", lambda limits, dt, at, v: (tuple(at), (0.0,) * len(v)), "acceleration"),
    "a row that is not looked at": ("fault", lambda *_: None, "position"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_oracle_sees_a_gate_that_is_wrong(monkeypatch, name):
    """Negative controls."""
    part, wrong, violation = WRONG[name]
    for module in (gate, braking):
        monkeypatch.setattr(module, part, wrong, raising=module is gate)
    try:
        found = violations(ARM, *play(ARM, HOME, 1, 10_000))
    except (ValueError, TypeError, OverflowError):  # what a row is taken for that is none
        found = {"position"}
    assert violation in found


def test_smooth_commands_pass_bit_for_bit():
    """Liveness: a gate that stops everything is safe, too. Waves of all joints at once, up to nine tenths of the limits."""
    rng, joints = random.Random(3), ARM.joints
    for _ in range(40):
        frequencies = [rng.uniform(0.5, 2.0) for _ in joints.lower]
        widths = [
            min(0.9 * v / f, 0.9 * a / f**2, 0.08)
            for v, a, f in zip(joints.velocity, joints.acceleration, frequencies, strict=True)
        ]
        state, start = gate.rest(HOME), [rng.choice((-1, 1)) for _ in HOME]
        for tick in range(1, 400):
            ramp = min(tick * T / 4.0, 1.0) ** 2
            rows = zip(HOME, widths, frequencies, start, strict=True)
            target = tuple(at + ramp * sign * width * math.sin(f * tick * T) for at, width, f, sign in rows)
            measured = tuple(at + rng.uniform(-0.05, 0.05) for at in state.position)
            state, verdict = gate.check(ARM, T, state, target, gate.Reading(measured, 9.0, 0.05, 0.14, 0.09))
            assert verdict == gate.Verdict(target, None)
