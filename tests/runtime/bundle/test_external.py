"""Weights outside a graph are found however protobuf spells them, and nowhere else; onnx's own reader is the judge."""

import contextlib
import random

import pytest

from dvgwm.runtime.bundle.external import external_files


def varint(value, width=1):
    """A number in at least ``width`` bytes: protobuf takes longer spellings than the shortest."""
    data = bytearray()
    while value > 0x7F or len(data) + 1 < width:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def field(number, content, width=1):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2, width) + varint(len(content), width) + content


def entry(name="w.bin", key="location"):
    return field(1, key) + field(2, name)


def tensor(external, more=b""):
    """A float tensor of one number that lies outside."""
    return field(1, 1) + field(2, 1) + field(8, "w") + more + field(13, external) + field(14, 1)


def model(graph, more=b""):
    return field(1, 10) + more + field(7, graph) + field(8, field(2, 17))


def node(attribute):
    return field(4, "Constant") + field(5, attribute) + field(2, "y")


def branch(inner):
    return node(field(1, "then_branch") + field(6, inner) + field(20, 5))


PLAIN = tensor(entry())
SPELLINGS = {
    "plain": model(field(5, PLAIN)),
    "value before key": model(field(5, tensor(field(2, "w.bin") + field(1, "location")))),
    "longer lengths": model(field(5, field(13, field(1, "location", 5) + field(2, "w.bin", 4), 3))),
    "a long name": model(field(5, tensor(entry("w" * 300 + ".bin")))),
    "fields nobody knows": model(field(5, tensor(field(1000, b"x" * 9) + entry() + field(77, 5)))),
    "fixed numbers between": model(field(5, tensor(b"\x31" + bytes(8) + entry() + b"\x35" + bytes(4)))),
    "groups": model(field(5, tensor(b"\x33" + field(9, b"aaa") + b"\x34" + entry()))),
    "key said twice": model(field(5, tensor(field(1, "offset") + field(1, "location") + field(2, "w.bin")))),
    "value said twice": model(field(5, tensor(field(1, "location") + field(2, "a") + field(2, "w.bin")))),
    "other facts first": model(field(5, tensor(field(1, "offset") + field(2, "0"), field(13, entry())))),
    "in a node": model(field(1, node(field(1, "value") + field(5, PLAIN) + field(20, 4)))),
    "in a list of tensors": model(field(1, node(field(1, "values") + field(10, PLAIN) + field(20, 9)))),
    "in a branch": model(field(1, branch(field(5, PLAIN)))),
    "in a branch of a branch": model(field(1, branch(field(1, branch(field(5, PLAIN)))))),
    "in a function": model(b"", field(25, field(1, "f") + field(7, node(field(1, "value") + field(5, PLAIN))))),
    "sparse": model(field(15, field(1, PLAIN) + field(3, 1))),
    "sparse indices": model(field(15, field(2, PLAIN) + field(3, 1))),
    "in a node, sparse": model(field(1, node(field(1, "sparse_value") + field(22, field(1, PLAIN))))),
    "in training": model(b"", field(20, field(1, field(5, PLAIN)))),
    "a graph in two pieces": model(b"", field(7, field(2, "g"))) + field(7, field(5, PLAIN)),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_every_spelling_is_found(case):
    data = SPELLINGS[case]
    wanted = "w" * 300 + ".bin" if case == "a long name" else "w.bin"
    assert external_files(data) == {wanted}


@pytest.mark.parametrize("case", SPELLINGS)
def test_onnx_reads_the_same(case):
    onnx = pytest.importorskip("onnx", reason="the export extra is not installed")

    def stated(message):
        found = set()
        for descriptor, value in message.ListFields():
            if descriptor.message_type is None:
                continue
            repeated = not hasattr(value, "ListFields")
            for each in value if repeated else [value]:
                if type(each).__name__ == "TensorProto":
                    found |= {pair.value for pair in each.external_data if pair.key == "location"}
                found |= stated(each)
        return found

    assert stated(onnx.ModelProto.FromString(SPELLINGS[case])) == external_files(SPELLINGS[case])


@pytest.mark.parametrize(
    "data",
    [
        model(field(5, field(8, "location") + field(9, entry()))),  # raw numbers that look like one
        model(field(2, entry())),
        model(field(5, tensor(entry(key="checksum")))),
        model(field(1, node(field(1, "note") + field(4, entry()) + field(20, 3)))),
        b"",
    ],
)
def test_what_only_looks_like_one_is_none(data):
    assert external_files(data) == set()


def test_what_is_no_graph_is_refused_and_never_hangs():
    rng = random.Random(3)
    whole = SPELLINGS["in a branch"]
    for _ in range(3000):
        data = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(ValueError):
            external_files(bytes(data))
    deep = field(5, PLAIN)
    for _ in range(60):
        deep = field(1, node(field(6, deep)))
    with pytest.raises(ValueError, match="nested too deeply"):
        external_files(model(deep))
