"""Rows of results: which are of this code, bundle and GPU, and what they say."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to the file at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def newest(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """Return the last row of every part that has this ``key``; a line that was cut off is passed over."""
    found = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.get("key") == key:
            found[row["part"]] = row
    return found


def recorded(path: Path, part: str, key: str) -> bool:
    """Return whether a part is recorded and was as it has to be."""
    return bool(newest(path, key).get(part, {}).get("fine"))


def summary(path: Path, parts: Sequence[str], key: str) -> tuple[str, bool]:
    """Return a line for every part, and whether all of them are recorded and as they have to be."""
    rows = newest(path, key)
    lines = []
    for part in parts:
        row = rows.get(part)
        verdict = "not done" if row is None else "proven" if row["fine"] else "NOT as it has to be"
        lines.append(f"{part:>8}  {verdict:<20}{'' if row is None else row['told']}")
    return "\n".join([*lines, f"rows: {path}"]), all(rows.get(part, {}).get("fine") for part in parts)
