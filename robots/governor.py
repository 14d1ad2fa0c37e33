"""The reference governor: of what a plan asks for, as much as joints and tool can follow, so that the gate need not step in."""

from collections.abc import Callable, Sequence
from math import copysign

from . import braking
from .limits import SafetyLimits

HALVINGS = 6
"""How exactly a share is found: to a part in 2**6."""
Positions = tuple[float, ...]


def govern(
    limits: SafetyLimits, period_s: float, state: braking.Commanded, plan: Callable[[float], Positions]
) -> tuple[Positions | None, float, tuple[str, int | None] | None]:
    """Return the positions to ask for at this tick, how much of the plan's tick they are, and what was in the way.

    ``plan(0)`` is where the plan is now, ``plan(1)`` where it is a tick later. A joint that stayed behind catches up as fast as
    it can without going past. Where the tool would be too fast, for its own limit or for the edge of its workspace, the arm
    goes the plan's way more slowly, a share of the tick; where that is not slow enough, it brakes, as little as it has to.
    What was in the way is ``LIMIT`` or ``FAST`` and the first joint that met it, or ``WORKSPACE`` or ``TOOL_FAST``; None if
    nothing was. Positions of None ask for a brake: nothing else suits the tool. A target outside of the workspace is left to
    the gate, which brakes for it and latches if that goes on: it is no matter of speed.
    """
    wanted, found = _followed(limits, period_s, state, plan(0.0), plan(1.0))
    wrong = _wrong(limits, period_s, state, wanted)
    if wrong is None or braking.misled(limits, period_s, plan(1.0), (0.0,) * len(wanted)) is not None:
        return wanted, 1.0, found
    braked, _ = braking.slower(limits.joints, period_s, state.position, state.velocity)

    def along(share: float) -> Positions:
        return _followed(limits, period_s, state, plan(0.0), plan(share))[0]

    def towards(share: float) -> Positions:
        return tuple(b + share * (w - b) for b, w in zip(braked, wanted, strict=True))

    def suits(positions: Positions) -> bool:
        return _wrong(limits, period_s, state, positions) is None

    found = wrong.removeprefix("GATE_"), None
    if (share := _largest(along, suits)) is not None:
        return along(share), share, found
    if (share := _largest(towards, suits)) is not None:
        return towards(share), 0.0, found
    return None, 0.0, found


def _largest(at: Callable[[float], Positions], suits: Callable[[Positions], bool]) -> float | None:
    """Return the largest share whose positions suit, by halving; None if those of 0 do not."""
    if not suits(at(0.0)):
        return None
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        share = (low + high) / 2
        low, high = (share, high) if suits(at(share)) else (low, share)
    return low


def _followed(
    limits: SafetyLimits, period_s: float, state: braking.Commanded, due: Sequence[float], target: Sequence[float]
) -> tuple[Positions, tuple[str, int | None] | None]:
    """Return the positions nearest to ``target`` that the joints can have next, and what was in their way."""
    wanted, _, found = braking.nearest(limits.joints, period_s, state, target)
    if found is not None:
        wanted, _, _ = braking.nearest(limits.joints, period_s, state, _closing(limits, period_s, state, due, target))
    return wanted, found


def _closing(
    limits: SafetyLimits, period_s: float, state: braking.Commanded, due: Sequence[float], target: Sequence[float]
) -> Positions:
    """Return positions that go with the plan and close the gap to it; what is left of the acceleration is the plan's own."""
    rows = zip(state.position, due, target, limits.joints.acceleration, strict=True)
    return tuple(
        at + (to - now) + copysign(braking.speed_cap(abs(now - at), acceleration / 2, period_s) * period_s, now - at)
        for at, now, to, acceleration in rows
    )


def _wrong(limits: SafetyLimits, period_s: float, state: braking.Commanded, positions: Sequence[float]) -> str | None:
    """Return what the gate would brake for, were it asked for these positions."""
    position, velocity, _ = braking.nearest(limits.joints, period_s, state, positions)
    return braking.misled(limits, period_s, position, velocity)
