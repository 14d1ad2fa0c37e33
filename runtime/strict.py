"""Plain data to dataclasses, strictly: every key is known, every value of the stated type."""

from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class UnknownKeyError(ValueError):
    """A key that no field is for."""


def strict(raw: Any, kind: type[T]) -> T:
    """Return ``raw``, decoded JSON or TOML, as ``kind``; a path is a text.

    Raises ValueError that names the place of a wrong or missing value, `UnknownKeyError` that of an unknown key.
    """
    converted = msgspec.convert(raw, kind, dec_hook=lambda field_kind, value: field_kind(value))
    if unknown := _unknown(raw, msgspec.to_builtins(converted, enc_hook=str), "$"):
        raise UnknownKeyError(f"unknown key {unknown}")
    return converted


def _unknown(raw: Any, known: Any, place: str) -> str | None:
    """Return the place of the first key of ``raw`` that decoding dropped."""
    if isinstance(raw, dict) and isinstance(known, dict):
        pairs = [(f"{place}.{key}", value, known.get(key), key in known) for key, value in raw.items()]
    elif isinstance(raw, list) and isinstance(known, list | tuple):
        pairs = [(f"{place}[{i}]", left, right, True) for i, (left, right) in enumerate(zip(raw, known, strict=True))]
    else:
        return None
    found = (where if not is_known else _unknown(left, right, where) for where, left, right, is_known in pairs)
    return next(filter(None, found), None)
