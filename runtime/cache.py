"""A folder of this user's own for what is made here and found again: what lies in it is believed only if this user sealed it.

A seal is a keyed hash of the content and of what it is of. Its key lies beside the folder, not in it: whoever fills the folder
cannot seal, and what was sealed elsewhere is made anew.
"""

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import ConfigError, RecordingError

KEY_BYTES = 32
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
REMEDY = "remove it, or name another place with --cache-dir"


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache in ``folder``, which is made when something is first kept; ``key`` is where its key lies."""

    folder: Path
    key: Path

    @staticmethod
    def at(folder: Path) -> "Cache":
        """Return the cache in ``folder``, its key beside it."""
        whole = folder.absolute()
        return Cache(folder, whole.with_name(f"{whole.name}.key"))

    def inside(self, name: str) -> "Cache":
        """Return the part of this cache that is called ``name``."""
        return replace(self, folder=self.folder / name)

    def open(self) -> Path:
        """Return the folder, made where it is not there yet.

        Raises `ConfigError` where it belongs to somebody else or others may write to it, `RecordingError` where it cannot be
        made.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RecordingError(
                "CACHE_WRITE",
                f"cannot keep anything in {self.folder}: {error.strerror}; name another place with --cache-dir",
            ) from None
        _check_owner(self.folder, stat.S_ISDIR)
        return self.folder

    def exists(self) -> bool:
        """Return whether anything may be kept here already; raises `ConfigError` as `open`."""
        if not os.path.lexists(self.folder):
            return False
        _check_owner(self.folder, stat.S_ISDIR)
        return True

    def owns(self, path: Path) -> bool:
        """Return whether the file at ``path`` is one that this user alone may have written."""
        try:
            told = os.lstat(path)
        except OSError:
            return False
        return stat.S_ISREG(told.st_mode) and told.st_uid == os.geteuid() and not told.st_mode & OTHERS_WRITE

    def seal(self, *parts: bytes) -> str:
        """Return the seal of ``parts``; raises `ConfigError` and `RecordingError` as `open`."""
        digests = b"".join(hashlib.sha256(part).digest() for part in parts)
        return hmac.new(self._key(), digests, hashlib.sha256).hexdigest()

    def is_sealed(self, seal: str, *parts: bytes) -> bool:
        """Return whether ``seal`` is this user's of ``parts``."""
        return hmac.compare_digest(self.seal(*parts).encode(), seal.encode())

    def _key(self) -> bytes:
        place = self.key
        for _ in range(2):
            try:
                with os.fdopen(os.open(place, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                    _check_owner(place, stat.S_ISREG)
                    if len(key := file.read(KEY_BYTES + 1)) == KEY_BYTES:
                        return key
                    raise ConfigError("CACHE_KEY", f"wanted {KEY_BYTES} bytes in {place}, got {len(key)}; remove it")
            except FileNotFoundError:
                _make_key(place)
            except OSError as error:
                raise ConfigError("CACHE_KEY", f"cannot read {place}: {error.strerror}; remove it") from None
        raise ConfigError("CACHE_KEY", f"{place} goes away again and again; name another place with --cache-dir")


def _make_key(place: Path) -> None:
    """Make the key, whole or not at all; another process may have been faster."""
    draft = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        try:
            os.link(draft, place)
        except FileExistsError:
            pass
        finally:
            os.unlink(draft)
    except OSError as error:
        raise RecordingError(
            "CACHE_WRITE", f"cannot write {place}: {error.strerror}; name another place with --cache-dir"
        ) from None


def _check_owner(path: Path, is_kind: Callable[[int], bool]) -> None:
    """Raise `ConfigError` where ``path`` is of another kind, belongs to somebody else, or others may write to it."""
    link, told, own = os.lstat(path), os.stat(path), os.geteuid()
    if not is_kind(told.st_mode):
        raise ConfigError("CACHE_OWNER", f"{path} is of another kind; {REMEDY}")
    if told.st_uid != own or link.st_uid not in (own, 0):
        raise ConfigError("CACHE_OWNER", f"wanted a place of user {own}, got {path} of user {told.st_uid}; {REMEDY}")
    if told.st_mode & OTHERS_WRITE:
        mode = stat.S_IMODE(told.st_mode)
        raise ConfigError("CACHE_OWNER", f"others may write to {path} (mode {mode:o}); `chmod go-w` it, or {REMEDY}")
