"""A work directory in which every finished product is remembered, so that a stopped build goes on where it was."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dvgwm.runtime.bundle.disk import record_of
from dvgwm.runtime.files import write_atomic

FINISHED = "bundle"
"""The note of which bundle the products are in."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """Products of one build, each valid only for the ``key`` (a hash of everything it was made from)."""

    path: Path
    key: str

    @staticmethod
    def open(path: Path, facts: object) -> "Workshop":
        """Return the work directory at ``path``, emptied where it was begun from other ``facts``."""
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        note = path / "key"
        if not note.is_file() or note.read_text() != key:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
            write_atomic(note, key.encode())
        for entry in path.iterdir():  # what a killed verification compared with
            if entry.is_dir():
                shutil.rmtree(entry)
        return Workshop(path, key)

    def product(self, name: str, make: Callable[[Path], object]) -> tuple[Path, bool]:
        """Return the file called ``name`` and whether it was made now; ``make`` writes it to the path it is given."""
        target, receipt = self.path / name, self.path / f"{name}.done"
        if target.is_file() and receipt.is_file() and receipt.read_text() == record_of(target).sha256:
            return target, False
        unfinished = self.path / f"unfinished.{name}"
        make(unfinished)
        unfinished.chmod(0o644)  # safetensors' are the owner's alone
        unfinished.replace(target)
        write_atomic(receipt, record_of(target).sha256.encode())
        return target, True

    @property
    def size_bytes(self) -> int:
        """How much is finished."""
        return sum(receipt.with_suffix("").stat().st_size for receipt in self.path.glob("*.done"))

    def finish(self, manifest: Path) -> None:
        """Remember that the products are in the bundle that ``manifest`` belongs to, and remove them here."""
        write_atomic(self.path / FINISHED, record_of(manifest).sha256.encode())
        for entry in self.path.iterdir():
            if entry.name not in (FINISHED, "key"):
                entry.unlink()

    def is_finished(self, manifest: Path) -> bool:
        """Return whether the bundle of ``manifest`` was made from these products."""
        note = self.path / FINISHED
        return note.is_file() and manifest.is_file() and note.read_text() == record_of(manifest).sha256

    def clear(self) -> None:
        """Remove the directory after all is done."""
        shutil.rmtree(self.path, ignore_errors=True)
