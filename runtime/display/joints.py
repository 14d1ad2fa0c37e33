"""The motion of the joints: a table of the last ticks, and a drawing."""

from collections.abc import Iterator
from typing import Any

from ..types import MotionRecord
from .strips import strips_drawing


def joints_csv(motion: MotionRecord) -> bytes:
    """Return every tick as a row of comma-separated values: time, joints commanded and measured, log code."""
    joints = list(zip(motion.joint_names, motion.units, strict=True))
    names = [f"{name} {what} [{unit}]" for what in ("commanded", "measured") for name, unit in joints]
    lines = [",".join(["time_s", *names, "log_code"])]
    for tick in motion.ticks:
        numbers = (tick.time_s, *tick.commanded, *tick.measured)
        lines.append(",".join([*(f"{number:.6g}" for number in numbers), tick.log_code or ""]))
    return "\n".join([*lines, ""]).encode()


def joints_drawing(motion: MotionRecord) -> dict[str, Any] | None:
    """Return the report's drawing: a strip for every joint and a mark for every log code; None if nothing moved."""
    ticks = motion.ticks
    lines = {"measured": [tick.measured for tick in ticks], "commanded": [tick.commanded for tick in ticks]}
    return strips_drawing(motion.joint_names, motion.units, [tick.time_s for tick in ticks], lines, list(_told(motion)))


def _told(motion: MotionRecord) -> Iterator[tuple[float, str]]:
    """Yield log codes with their times; of a lasting one, the first tick."""
    before = None
    for tick in motion.ticks:
        if tick.log_code is not None and tick.log_code != before:
            yield tick.time_s, tick.log_code
        before = tick.log_code
