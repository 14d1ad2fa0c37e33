"""The file of rows: one a line, written as soon as it is measured, and valid for a part's code on a machine."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
DONE = "done"
"""The row that says that a part came to its end."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one part in ``file``: those with its ``key``, a hash of its code and of what it ran on, are its own.

    ``facts`` are what every row says of machine and code.
    """

    file: Path
    part: str
    key: str
    facts: Mapping[str, object]

    def add(self, name: str, figures: Mapping[str, object]) -> Row:
        """Write a row and return it."""
        row = {"part": self.part, "name": name, **figures, "key": self.key, **self.facts}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        before = self.file.read_bytes() if self.file.is_file() else b""
        cut = bool(before) and not before.endswith(b"\n")  # what was killed in the middle of a line keeps it to itself
        with self.file.open("a") as file:
            file.write(("\n" if cut else "") + json.dumps(row) + "\n")
        return row

    def any(self) -> bool:
        """Return whether anything of this part is recorded."""
        return any((row["part"], row.get("key")) == (self.part, self.key) for row in read(self.file))

    def find(self, name: str, variant: str | None = None) -> Row | None:
        """Return the last row of ours with this name, and this variant where one is asked for."""
        found = None
        for row in read(self.file):
            if (row["part"], row["name"], row.get("key")) == (self.part, name, self.key) and (
                variant is None or row.get("variant") == variant
            ):
                found = row
        return found


def key_of(code: str, facts: Mapping[str, object], preset: str) -> str:
    """Return what a part's rows are valid for: its code, the libraries, the machine, the networks' size."""
    here = {name: value for name, value in facts.items() if name != "commit"}
    return hashlib.sha256(json.dumps([code, here, preset], sort_keys=True).encode()).hexdigest()[:12]


def read(file: Path) -> Iterator[Row]:
    """Yield the rows of ``file``; a line that was cut off is passed over."""
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"part", "name"} <= row.keys():
            yield row
