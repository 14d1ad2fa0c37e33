"""The plan of calls, for a machine that is lent in pieces: which parts to measure in each, how long, and what to bring."""

from collections.abc import Sequence
from pathlib import Path

from .parts import PARTS, Part, here, wanted
from .rows import DONE, read

CALL_MINUTES = 9.0
ALL_MINUTES = 28.0
START_MINUTES = 0.4
"""Of every call: libraries are imported, kernels compiled, in each part anew."""


OPTIONAL = {"cuda": "so that no shipped kernel is launched", "matplotlib": "so that no plot is drawn"}


def packed(parts: Sequence[Part], minutes: dict[str, float]) -> list[list[Part]]:
    """Return the parts in calls of at most `CALL_MINUTES`, in their order."""
    calls: list[list[Part]] = []
    room = 0.0
    for part in parts:
        if not calls or minutes[part.name] > room:
            calls.append([])
            room = CALL_MINUTES - START_MINUTES
        calls[-1].append(part)
        room -= minutes[part.name]
    return calls


def expected(file: Path) -> dict[str, float]:
    """Return the minutes of every part: those of its last run in one piece in ``file``, else what is stated of it."""
    minutes = {part.name: part.minutes for part in PARTS.values()}
    for row in read(file):
        if row["name"] == DONE and row.get("gpu") and row["part"] in minutes and row.get("resumed") is False:
            minutes[row["part"]] = row["wall_s"] / 60.0
    return minutes


def told(file: Path, names: Sequence[str]) -> str:
    """Return the plan in words."""
    minutes = expected(file)
    calls = packed([PARTS[name] for name in names], minutes)
    lines, total = [], 0.0
    for number, parts in enumerate(calls, 1):
        spent = START_MINUTES + sum(minutes[part.name] for part in parts)
        total += spent
        only = " ".join(part.name for part in parts)
        lines.append(f"call {number}, {spent:.1f} min: python3 -m benchmarks.gpu --out FILE --only {only}")
        lines += [f"    {part.name:<10} {minutes[part.name]:4.1f} min  {part.about}" for part in parts]
    guessed = [part.name for call in calls for part in call if not part.measured]
    lines.append(f"{total:.1f} min in all, of {ALL_MINUTES:.0f}; thought, not measured: {', '.join(guessed) or 'none'}")
    lines.append("each call after the first: --after the FILE that the one before brought back")
    lines.append("with what time is left: make gpu-tests, which says what fails and stops nothing")
    needed = sorted({library for call in calls for part in call for library in part.libraries})
    missing = {name: [p.name for call in calls for p in call if name in p.missing] for name in missing_of(calls)}
    lines.append(f"it imports {', '.join(needed)}")
    lines += [f"not here: '{name}', for {', '.join(parts)}" for name, parts in missing.items()] or [
        "all of them are here"
    ]
    lines += [f"not here, and done without: {wanted(name)}, {why}" for name, why in OPTIONAL.items() if not here(name)]
    return "\n".join(lines)


def missing_of(calls: Sequence[Sequence[Part]]) -> list[str]:
    """Return what has to be brought, once each."""
    return sorted({name for call in calls for part in call for name in part.missing})
