"""The report's drawings of numbers over time, one strip each."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 1000.0, 46.0
"""Of a strip, in the units of its drawing, which is stretched to the page's width."""
POINTS = 600
"""Of a line: more are not told apart."""
NARROWEST: Mapping[str, float] = {"rad": 0.05, "m": 0.01}
"""The least that a strip shows from top to bottom, by unit: what is at rest is not to look restless."""
NARROWEST_ELSE = 0.05


def strips_drawing(
    names: Sequence[str],
    units: Sequence[str],
    times_s: Sequence[float],
    lines: Mapping[str, Sequence[Sequence[float]]],
    marks: Sequence[tuple[float, str]] = (),
) -> dict[str, Any] | None:
    """Return a strip for every name, with a line of each kind in ``lines``: rows of numbers at ``times_s``.

    ``marks`` are times with their words. None if no time passes.
    """
    if len(times_s) < 2 or times_s[-1] <= times_s[0]:
        return None
    begin_s, span_s = times_s[0], times_s[-1] - times_s[0]
    stride = max(1, len(times_s) // POINTS)

    def place(time_s: float) -> float:
        return WIDTH * (time_s - begin_s) / span_s

    xs = [place(time_s) for time_s in times_s[::stride]]
    strips = []
    for index, (name, unit) in enumerate(zip(names, units, strict=True)):
        shown = {kind: [row[index] for row in rows[::stride]] for kind, rows in lines.items()}
        strips.append({"name": name, "unit": unit, **_strip(unit, xs, shown)})
    told = [{"x": place(time_s), "log_code": code, "time_s": time_s} for time_s, code in marks]
    return {"kinds": list(lines), "strips": strips, "marks": told, "begin_s": begin_s, "span_s": span_s}


def _strip(unit: str, xs: Sequence[float], lines: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the lines of one strip as points of polylines, from the least value at the bottom to the greatest."""
    least, most = min(map(min, lines.values())), max(map(max, lines.values()))
    middle, half = (least + most) / 2, max(most - least, NARROWEST.get(unit, NARROWEST_ELSE)) / 2

    def points(values: Sequence[float]) -> str:
        ys = (HEIGHT / 2 - (value - middle) / half * HEIGHT / 2 for value in values)
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))

    return {"least": least, "most": most, "lines": {kind: points(values) for kind, values in lines.items()}}
