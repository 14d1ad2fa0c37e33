"""What the joints did: a table of the last ticks of motion, and a drawing of it."""

from collections.abc import Iterator, Sequence
from typing import Any

from ..types import MotionRecord

WIDTH, HEIGHT, LABEL, GAP = 1000.0, 46.0, 110.0, 10.0
"""Of the drawing, a joint's strip, the room for its name, and the room between strips, in the units of the drawing."""
POINTS = 600
"""Of a line: more are not told apart."""
NARROWEST = 0.05
"""The least that a strip shows from top to bottom, in radians: what is at rest is not to look restless."""


def joints_csv(motion: MotionRecord) -> bytes:
    """Return every tick as a row of comma-separated values: time, joints commanded and measured (radians), log code."""
    names = [f"{name} {what}" for what in ("commanded", "measured") for name in motion.joint_names]
    lines = [",".join(["time_s", *names, "log_code"])]
    for tick in motion.ticks:
        numbers = (tick.time_s, *tick.commanded, *tick.measured)
        lines.append(",".join([*(f"{number:.6g}" for number in numbers), tick.log_code or ""]))
    return "\n".join([*lines, ""]).encode()


def joints_drawing(motion: MotionRecord) -> dict[str, Any] | None:
    """Return what the report page draws: a strip for every joint and a mark for every log code; None where nothing moved."""
    ticks = motion.ticks
    if len(ticks) < 2 or ticks[-1].time_s <= ticks[0].time_s:
        return None
    begin_s, span_s = ticks[0].time_s, ticks[-1].time_s - ticks[0].time_s
    shown = ticks[:: max(1, len(ticks) // POINTS)]
    xs = [LABEL + (WIDTH - LABEL) * (tick.time_s - begin_s) / span_s for tick in shown]
    strips = []
    for joint, name in enumerate(motion.joint_names):
        lines = [[tick.commanded[joint] for tick in shown], [tick.measured[joint] for tick in shown]]
        strips.append(_strip(name, joint * (HEIGHT + GAP), xs, lines))
    marks = [
        {"x": LABEL + (WIDTH - LABEL) * (time_s - begin_s) / span_s, "log_code": code, "time_s": time_s}
        for time_s, code in _told(motion)
    ]
    height = len(strips) * (HEIGHT + GAP)
    return {"width": WIDTH, "height": height, "strips": strips, "marks": marks, "begin_s": begin_s, "span_s": span_s}


def _strip(name: str, top: float, xs: Sequence[float], lines: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return one joint's strip: its lines as points of a polyline, from its least value at the bottom to its greatest."""
    least, most = min(map(min, lines)), max(map(max, lines))
    middle, half = (least + most) / 2, max(most - least, NARROWEST) / 2

    def points(values: Sequence[float]) -> str:
        ys = (top + HEIGHT / 2 - (value - middle) / half * HEIGHT / 2 for value in values)
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))

    return {"name": name, "top": top, "least": least, "most": most, "lines": [points(values) for values in lines]}


def _told(motion: MotionRecord) -> Iterator[tuple[float, str]]:
    """Yield the time of every log code that was told, the first tick of those that stay."""
    before = None
    for tick in motion.ticks:
        if tick.log_code is not None and tick.log_code != before:
            yield tick.time_s, tick.log_code
        before = tick.log_code
