"""Plain data to dataclasses, strictly: every key is known, every value of the stated type."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
LARGEST_BYTES = 100_000
"""Of a TOML file."""


class UnknownKeyError(ValueError):
    """A key without a field."""


def strict(raw: Any, kind: type[T]) -> T:
    """Return ``raw``, decoded JSON or TOML, as ``kind``; a path is a text.

    Raises ValueError with the place of a wrong or missing value, `UnknownKeyError` with the place of an unknown key.
    """
    converted = msgspec.convert(raw, kind, dec_hook=lambda field_kind, value: field_kind(value))
    if unknown := _unknown(raw, msgspec.to_builtins(converted, enc_hook=str), "$"):
        raise UnknownKeyError(f"unknown key {unknown}")
    return converted


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table in the TOML file at ``path``; raises ValueError if it is none, too large or no plain file, OSError."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError("is no plain file")
    with path.open("rb") as file:
        text = file.read(LARGEST_BYTES + 1)
    if len(text) > LARGEST_BYTES:
        raise ValueError(f"has more than {LARGEST_BYTES} bytes")
    try:
        return tomllib.loads(text.decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _unknown(raw: Any, known: Any, place: str) -> str | None:
    """Return the place of the first key of ``raw`` missing in ``known``."""
    if isinstance(raw, dict) and isinstance(known, dict):
        pairs = [(f"{place}.{key}", value, known.get(key), key in known) for key, value in raw.items()]
    elif isinstance(raw, list) and isinstance(known, list | tuple):
        pairs = [(f"{place}[{i}]", left, right, True) for i, (left, right) in enumerate(zip(raw, known, strict=True))]
    else:
        return None
    found = (where if not is_known else _unknown(left, right, where) for where, left, right, is_known in pairs)
    return next(filter(None, found), None)
