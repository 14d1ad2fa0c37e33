"""The chunk player: action targets at ten a second to positions at any instant, without a kink in the velocity."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

CLOCK_ROUNDING_S = 1e-9
"""Ticks are multiples of a period that binary fractions cannot hold: the last one may lie a rounding past the end."""


@dataclass(frozen=True, slots=True)
class Track:
    """A cubic Hermite curve per joint through ``positions`` at ``times_s`` with ``slopes`` (units per second)."""

    times_s: tuple[float, ...]
    positions: tuple[tuple[float, ...], ...]
    slopes: tuple[tuple[float, ...], ...]

    @property
    def end_s(self) -> float:
        """When the last target is due."""
        return self.times_s[-1]


def track(
    now_s: float,
    position: Sequence[float],
    velocity: Sequence[float],
    times_s: Sequence[float],
    targets: Sequence[Sequence[float]],
) -> Track | None:
    """Return the curve from ``position`` at ``velocity`` now through the targets that are still ahead.

    ``times_s`` increase. Targets whose time is past are left out; the result is None if nothing is left. Inner slopes are of
    central differences, limited so that the curve never overshoots a target.
    """
    ahead = [(time, tuple(target)) for time, target in zip(times_s, targets, strict=True) if time > now_s]
    if not ahead:
        return None
    times = (now_s, *(time for time, _ in ahead))
    points = (tuple(position), *(target for _, target in ahead))
    inner = [_inner(times, points, index) for index in range(1, len(times) - 1)]
    last = tuple((b - a) / (times[-1] - times[-2]) for a, b in zip(points[-2], points[-1], strict=True))
    return Track(times, points, (tuple(velocity), *inner, last))


def sample(curve: Track, now_s: float) -> tuple[float, ...] | None:
    """Return the positions at ``now_s``, None after the last target; before the first they are it: nothing is extrapolated."""
    if not now_s <= curve.end_s + CLOCK_ROUNDING_S:  # written so that NaN is after it
        return None
    now_s = max(min(now_s, curve.end_s), curve.times_s[0])
    left = min(max(bisect_right(curve.times_s, now_s) - 1, 0), len(curve.times_s) - 2)
    width = curve.times_s[left + 1] - curve.times_s[left]
    u = (now_s - curve.times_s[left]) / width
    weights = (1 + u * u * (2 * u - 3), u * (1 - u) ** 2 * width, u * u * (3 - 2 * u), u * u * (u - 1) * width)
    rows = (curve.positions[left], curve.slopes[left], curve.positions[left + 1], curve.slopes[left + 1])
    return tuple(sum(w * value for w, value in zip(weights, joint, strict=True)) for joint in zip(*rows, strict=True))


def _inner(times: Sequence[float], points: Sequence[Sequence[float]], index: int) -> tuple[float, ...]:
    before, after = times[index] - times[index - 1], times[index + 1] - times[index]
    slopes = []
    for a, b, c in zip(points[index - 1], points[index], points[index + 1], strict=True):
        left, right = (b - a) / before, (c - b) / after
        central = (left * after + right * before) / (before + after)
        bound = 3.0 * min(abs(left), abs(right)) if left * right > 0 else 0.0
        slopes.append(min(max(central, -bound), bound))
    return tuple(slopes)
