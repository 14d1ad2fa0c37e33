"""Files that are written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .errors import RecordingError


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, synced to disk; raises `RecordingError` and leaves nothing behind on failure."""
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise RecordingError("OUTPUT_WRITE", f"cannot write {path}: {error.strerror}; choose another --out") from error
    finally:
        # Gone already where it was renamed; an interrupted write leaves nothing either.
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as JSON, as `write_atomic`."""
    write_atomic(path, json.dumps(value, indent=1).encode() + b"\n")
