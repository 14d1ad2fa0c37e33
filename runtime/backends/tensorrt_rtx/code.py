"""The code of engines' first runs, kept on disk: one sealed file for each engine, GPU, driver and library."""

import hashlib
import json
import mmap
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ...cache import Cache
from ...errors import RecordingError
from ...files import write_atomic

LARGEST_BYTES = 100_000_000
"""Of one engine's code: beyond this the library itself slows down (NVIDIA's documentation of its runtime cache)."""
ALL_BYTES = 1_000_000_000
"""Of all code together; the oldest goes first."""
_SEAL_CHARACTERS = 64
_END_BYTES = 1 << 16


class CodeStore:
    """Code in ``cache``, on the machine described by ``facts``."""

    def __init__(self, cache: Cache, facts: Mapping[str, str]) -> None:
        self._cache, self._facts = cache, dict(facts)

    def key(self, engine: Path) -> str:
        """Return the name of the code of the file ``engine``: of its size and ends, as its middle is weights."""
        with engine.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            ends = (len(data), data[:_END_BYTES].hex(), data[-_END_BYTES:].hex())
        return hashlib.sha256(json.dumps([self._facts, ends], sort_keys=True).encode()).hexdigest()[:24]

    def load(self, key: str) -> bytes:
        """Return the code called ``key``; nothing if there is none, or it is not this user's."""
        path = self._path(key)
        if not self._cache.exists() or not self._cache.owns(path):
            return b""
        with suppress(OSError):
            data = path.read_bytes()
            seal, code = data[:_SEAL_CHARACTERS].decode("ascii", "replace"), data[_SEAL_CHARACTERS:]
            if self._cache.is_sealed(seal, key.encode(), code):
                return code
        return b""

    def saver(self, key: str, code: Callable[[], bytes], known: bytes) -> Callable[[], None]:
        """Return a call to make after each run: the first saves ``code``, unless it is ``known``."""
        done = False

        def save() -> None:
            nonlocal done
            if not done and (made := code()) != known:
                self._save(key, made)
            done = True

        return save

    def _save(self, key: str, code: bytes) -> None:
        if not code or len(code) > LARGEST_BYTES:
            return
        # A disk that is full or a folder that others may write to costs the next start some seconds, and no plan.
        with suppress(RecordingError, OSError):
            self._cache.open()
            write_atomic(self._path(key), self._cache.seal(key.encode(), code).encode() + code)
            self._trim()

    def _trim(self) -> None:
        """Remove the oldest code until the rest is small enough."""
        files = sorted(self._cache.folder.glob("*.code"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        room = ALL_BYTES
        for path in files:
            room -= path.stat().st_size
            if room < 0:
                path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._cache.folder / f"{key}.code"
