"""The files of an ONNX graph's weights, found by walking its bytes as protobuf, in any spelling.

Only fields with tensors in them are looked into (onnx.proto, ONNX 1.19): no library is needed, and nothing is loaded.
"""

from collections.abc import Iterator, Mapping
from mmap import mmap

Data = bytes | mmap
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _TRAINING = range(8)
_FIELDS: Mapping[int, Mapping[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _TENSOR: {},
}
"""Of every message, the fields that are messages which may hold a tensor."""
_EXTERNAL_DATA = 13
_DEEPEST = 100
_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)


def external_files(data: Data) -> set[str]:
    """Return the file names of a graph's weights; raises ValueError for a damaged graph."""
    found: set[str] = set()
    stack = [(_MODEL, 0, len(data), 0)]
    while stack:
        message, begin, end, depth = stack.pop()
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        for field, kind, start, stop in _fields(data, begin, end):
            if kind != _BYTES:
                continue
            if message == _TENSOR and field == _EXTERNAL_DATA:
                found |= _location(data, start, stop)
            elif field in _FIELDS[message]:
                stack.append((_FIELDS[message][field], start, stop, depth + 1))
    return found


def _location(data: Data, begin: int, end: int) -> set[str]:
    """Return the value of an entry with the key ``location``, else nothing; the last one of a repeated field counts."""
    said = {field: data[start:stop] for field, kind, start, stop in _fields(data, begin, end) if kind == _BYTES}
    return {said.get(2, b"").decode("utf-8", "replace")} if said.get(1) == b"location" else set()


def _fields(data: Data, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, begin and end of every field of a message; raises ValueError if it is cut off."""
    at, groups = begin, 0
    while at < end:
        tag, at = _varint(data, at, end)
        field, kind = tag >> 3 & 0x1FFFFFFF, tag & 7
        start = at
        if kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind == _BYTES:
            size, start = _varint(data, at, end)
            at = start + size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind in (_GROUP, _END_GROUP):  # nothing of ONNX's: what is between them is skipped
            groups += 1 if kind == _GROUP else -1
        else:
            raise ValueError(f"byte {at} is no field")
        if at > end or groups < 0:
            raise ValueError(f"a field at byte {start} does not end in its message")
        if not groups:
            yield field, kind, start, at


def _varint(data: Data, at: int, end: int) -> tuple[int, int]:
    """Return the number at ``at``, of up to ten bytes, and its end."""
    value = 0
    for index in range(10):
        if at + index >= end:
            raise ValueError(f"a number at byte {at} does not end")
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + index + 1
    raise ValueError(f"a number at byte {at} does not end")
