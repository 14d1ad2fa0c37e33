"""Files and directories that are written whole or not at all."""

import errno
import itertools
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ConfigError, RecordingError


@contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """Tell whoever supervises this process, as an audit event, to remove ``path`` where the process dies meanwhile."""
    sys.audit("dvgwm.unfinished", path.absolute())
    try:
        yield
    finally:
        sys.audit("dvgwm.finished", path.absolute())


@contextmanager
def whole_directory(target: Path, marker: str, content: str) -> Iterator[Path]:
    """Give an empty directory that gets the name ``target`` if all goes well, in place of an older one that holds ``marker``.

    Nothing is left of it otherwise; but where it is written and cannot get its name it stays, and the error says where.
    Raises `ConfigError` where ``target`` is something else than ``content`` (a run, a bundle), `RecordingError` where it
    cannot be made.
    """
    check_place(target, marker, content)
    target = Path(os.path.abspath(target))
    staging = target.with_name(f".{target.name}.unfinished")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        created = [folder for folder in (staging, *staging.parents) if not folder.exists()]
    except OSError as error:
        raise _unwritten(target, error) from None
    failure: OSError | None = None
    with unfinished(created[-1]):
        try:
            _make(staging)
            yield staging
            failure = _take_name(staging, target)
        except BaseException:
            if staging.exists() or not target.exists():  # stopped a moment later it has its name, and is whole
                shutil.rmtree(created[-1], ignore_errors=True)
            raise
    if failure is not None:
        raise RecordingError(
            "OUTPUT_NAME",
            f"cannot give {staging} the name {target.name}: {failure.strerror}; everything is in {staging}",
        )


def check_place(target: Path, marker: str, content: str) -> None:
    """Return if a ``content`` (a run, a bundle) can be at ``target``: nothing is there, or an older one that holds ``marker``.

    Raises `ConfigError` if not, `RecordingError` where that cannot be seen.
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
    """Return if a file can be written at ``path``; raises `RecordingError` where it is none or its folder takes none."""
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


def _make(staging: Path) -> None:
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise _unwritten(staging, error) from None


def _take_name(staging: Path, target: Path) -> OSError | None:
    """Rename ``staging`` to ``target``, and return why that cannot be; what was there before is back then."""
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
