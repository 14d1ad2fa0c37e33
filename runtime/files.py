"""Files and directories, written whole or not at all."""

import errno
import fcntl
import itertools
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import ConfigError, RecordingError


@contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """Have the supervisor remove ``path`` if this process dies or is stopped; an audit event tells it."""
    sys.audit("dvgwm.unfinished", path.absolute())
    try:
        yield
    except Exception:
        sys.audit("dvgwm.finished", path.absolute())
        raise
    sys.audit("dvgwm.finished", path.absolute())


@contextmanager
def whole_directory(target: Path, marker: str, content: str) -> Iterator[Path]:
    """Give an empty directory; if all goes well it becomes ``target``, in place of an older one with ``marker`` in it.

    Nothing is left of it otherwise; but if it is written and cannot get its name it stays, and the error has its place.
    Raises `ConfigError` if ``target`` is something else than ``content`` (a run, a bundle) or is just being written by
    another command, `RecordingError` if it cannot be made.
    """
    check_place(target, marker, content)
    target = Path(os.path.abspath(target))
    with _made_folders(target.parent), _staged(target) as staging:
        if staging is None:
            raise ConfigError(
                "OUT_BUSY", f"{target} is just being written by another command; wait for it, or name another --out"
            )
        yield staging


@contextmanager
def numbered_directory(parent: Path) -> Iterator[tuple[Path, Path]]:
    """Give an empty directory, and its place in ``parent`` if all goes well: the next free number.

    Commands begun together get numbers one after the other. Raises `RecordingError` if it cannot be made.
    """
    whole = Path(os.path.abspath(parent))
    with _made_folders(whole):
        for number in itertools.count(1):
            target = whole / f"{number:04d}"
            if os.path.lexists(target):
                continue
            with _staged(target, new=True) as staging:
                if staging is not None:
                    yield staging, parent / target.name
                    return


def leftovers(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the unfinished outputs in ``folder``, and whether each is just being written; if not, its command was killed."""
    for path in sorted(folder.glob(".*.unfinished")):
        lock = _locked(path)
        yield path, lock is None
        if lock is not None:
            os.close(lock)


def remove_unclaimed(path: str) -> None:
    """Remove the directory at ``path`` unless another command has begun to write to it."""
    lock = _locked(Path(path))
    if lock is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


@contextmanager
def _made_folders(folder: Path) -> Iterator[None]:
    """Make ``folder`` and its parents; new ones are removed if they are empty at the end, or after a death."""
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritten(folder, error) from None
    for each in made:
        sys.audit("dvgwm.made", each)
    try:
        yield
    finally:
        for each in made:
            with suppress(OSError):  # it holds what was written, by this command or another
                each.rmdir()


@contextmanager
def _staged(target: Path, new: bool = False) -> Iterator[Path | None]:
    """Give a directory of this process alone; if all goes well it becomes ``target``.

    Give None if another process has it, or if it is to be ``new`` and ``target`` has just come to be.
    """
    staging = target.with_name(f".{target.name}.unfinished")
    lock: int | None = None
    failure: OSError | None = None
    with unfinished(staging):
        try:
            lock = _claimed(staging)
            if lock is None or (new and os.path.lexists(target)):
                yield None
                if lock is not None:
                    staging.rmdir()
                return
            yield staging
            failure = _take_name(staging, target)
        except BaseException:
            if lock is not None:  # stopped a moment later it has its name, and is whole
                shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            if lock is not None:
                os.close(lock)
    if failure is not None:
        raise RecordingError(
            "OUTPUT_NAME",
            f"cannot give {staging} the name {target.name}: {failure.strerror}; everything is in {staging}",
        )


def _claimed(staging: Path) -> int | None:
    """Return a descriptor with the lock of ``staging``, now empty; None if another process has it.

    A killed command's is taken over: the kernel has let go of it. Raises `RecordingError` if it cannot be made.
    """
    try:
        while True:
            with suppress(FileExistsError):
                staging.mkdir()
            lock = _locked(staging)
            if lock is None:
                if staging.exists():
                    return None
                continue
            for left in staging.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            return lock
    except OSError as error:
        raise _unwritten(staging, error) from None


def _locked(path: Path) -> int | None:
    """Return a descriptor with the lock of the directory at ``path``; None if there is none, or another process has it."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    with suppress(OSError):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                os.close(lock)
                return None
            # A file system without locks: there nobody can be told apart from the dead.
        if os.path.samestat(os.fstat(lock), os.lstat(path)):  # else it has got its name, or is gone
            return lock
    os.close(lock)
    return None


def check_place(target: Path, marker: str, content: str) -> None:
    """Return if a ``content`` (a run, a bundle) can be at ``target``: nothing is there, or an older one with ``marker`` in it.

    Raises `ConfigError` if not, `RecordingError` if it cannot be looked at.
    """
    whole = Path(os.path.abspath(target))
    try:
        if whole in (Path.cwd(), *Path.cwd().parents) or os.path.ismount(whole):
            raise ConfigError(
                "OUT_PLACE", f"wanted a directory of its own for the {content}, got {str(target)!r}; set --out"
            )
        if whole.is_symlink():
            raise ConfigError("OUT_LINK", f"{target} is a link; name the place that it leads to with --out")
        occupied = os.path.lexists(whole) and not (whole / marker).is_file()
        if occupied and (not whole.is_dir() or any(whole.iterdir())):
            raise ConfigError(
                "OUT_OCCUPIED", f"{target} exists and holds no {content}; name another directory with --out"
            )
    except OSError as error:
        raise _unwritten(target, error) from None


def check_writable(path: Path) -> None:
    """Return if a file can be written at ``path``; raises `RecordingError` if not."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RecordingError("OUTPUT_KIND", f"{path} is no file that can be written; name another place")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unwritten(path, error) from None
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise RecordingError("OUTPUT_WRITE", f"cannot write into {path.absolute().parent}; name another place")


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path``, synced to disk; raises `RecordingError` and leaves nothing behind on failure."""
    temporary: str | None = None
    check_writable(path)
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.")
        with unfinished(Path(temporary)), os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        # Gone already where it was renamed; an interrupted write leaves nothing either.
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as JSON, as `write_atomic`."""
    write_atomic(path, json.dumps(value, indent=1).encode() + b"\n")


def _unwritten(path: Path, error: OSError) -> RecordingError:
    return RecordingError("OUTPUT_WRITE", f"cannot write {path}: {error.strerror}; name another place")


def _take_name(staging: Path, target: Path) -> OSError | None:
    """Rename ``staging`` to ``target``; if it fails, return why, with the older ``target`` back in its place."""
    old = next(place for place in _places_beside(target) if not os.path.lexists(place))
    try:
        if target.exists():
            _move_away(target, old)
        staging.rename(target)
    except OSError as error:
        return error
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    return None


def _places_beside(target: Path) -> Iterator[Path]:
    return (target.with_name(f".{target.name}.old{number or ''}") for number in itertools.count())


def _move_away(target: Path, old: Path) -> None:
    try:
        target.rename(old)
    except OSError as error:
        if error.errno != errno.EXDEV:  # in a lower layer of a container, where it can be removed but not renamed
            raise
        shutil.rmtree(target)
