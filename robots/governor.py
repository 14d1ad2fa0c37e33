"""The reference governor: of what a plan asks for, as much as joints and tool can follow, so that the gate need not step in."""

from collections.abc import Sequence
from math import copysign

from . import gate
from .limits import SafetyLimits

HALVINGS = 6
"""How exactly the share is found: to a part in 2**6 of the way between full brake and target."""


def govern(
    limits: SafetyLimits, period_s: float, state: gate.GateState, due: Sequence[float], target: Sequence[float]
) -> tuple[tuple[float, ...] | None, tuple[str, int | None] | None]:
    """Return the positions to ask for at this tick, and what was in the way: a limit and the first joint that met it.

    ``due`` is where the plan is now, ``target`` where it is a tick later. An arm that stayed behind catches up as fast as it
    can without going past. The limit is ``LIMIT`` or ``FAST`` of a joint, ``WORKSPACE`` or ``TOOL_FAST`` of the tool; None if
    the target is returned as it is. Positions of None ask for a brake: not even the slowest of them suits the tool. A target
    outside of the workspace is left to the gate, which brakes for it and latches if that goes on: it is no matter of speed.
    """
    wanted, _, found = gate.nearest(limits.joints, period_s, state, target)
    if found is not None:
        wanted, _, _ = gate.nearest(limits.joints, period_s, state, _closing(limits, period_s, state, due, target))
    wrong = _wrong(limits, period_s, state, wanted)
    if wrong is None or gate.misled(limits, period_s, target, (0.0,) * len(target)) is not None:
        return wanted, found
    braked, _ = gate.slower(limits.joints, period_s, state.position, state.velocity)
    best, low, high = None, 0.0, 1.0
    if _wrong(limits, period_s, state, braked) is None:
        best = braked
        for _ in range(HALVINGS):
            share = (low + high) / 2
            tried = tuple(b + share * (w - b) for b, w in zip(braked, wanted, strict=True))
            if _wrong(limits, period_s, state, tried) is None:
                best, low = tried, share
            else:
                high = share
    return best, (wrong.removeprefix("GATE_"), None)


def _closing(
    limits: SafetyLimits, period_s: float, state: gate.GateState, due: Sequence[float], target: Sequence[float]
) -> tuple[float, ...]:
    """Return positions that go with the plan and close the gap to it; what is left of the acceleration is the plan's own."""
    rows = zip(state.position, due, target, limits.joints.acceleration, strict=True)
    return tuple(
        at + (to - now) + copysign(gate.speed_cap(abs(now - at), acceleration / 2, period_s) * period_s, now - at)
        for at, now, to, acceleration in rows
    )


def _wrong(limits: SafetyLimits, period_s: float, state: gate.GateState, positions: Sequence[float]) -> str | None:
    """Return what the gate would brake for, were it asked for these positions."""
    position, velocity, _ = gate.nearest(limits.joints, period_s, state, positions)
    return gate.misled(limits, period_s, position, velocity)
