"""The link between planner and motion: whole or not at all, whatever comes."""

import math
import random
import subprocess
import sys

import pytest

from dvgwm.robots import link
from dvgwm.robots.link import Chunk, Kind, Line, Message, State
from dvgwm.runtime.errors import ShapeError

CHUNK = Chunk(7, 1.5, (0.1, 0.2), ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0)))
STATE = State(3, 2, True, False, (0.1, 0.2), (0.3, 0.4), (9.0,) * 11)


@pytest.fixture
def ends():
    here, there = link.link(5)
    other = Line(there, 5)
    yield here, other
    here.close()
    other.close()


def test_what_is_sent_is_what_comes(ends):
    here, other = ends
    assert here.send(Kind.CHUNK, 2.0, link.pack_chunk(CHUNK))
    assert here.send(Kind.ALIVE, 3.0)
    first, second = other.receive()
    assert (first.kind, first.sent_s, link.unpack_chunk(first.body)) == (Kind.CHUNK, 2.0, CHUNK)
    assert (second.kind, second.sequence, second.body) == (Kind.ALIVE, 2, b"")
    assert not other.receive()
    assert other.send(Kind.STATE, 4.0, link.pack_state(STATE))
    assert link.unpack_state(here.receive()[0].body) == STATE


@pytest.mark.parametrize(
    "state", [STATE, State(-1, None, False, True, (), ()), State(0, 0, False, False, (1.0,), (2.0,))]
)
def test_states_survive_the_way(state):
    assert link.unpack_state(link.pack_state(state)) == state


def test_what_no_observation_is_behind_and_what_is_empty_survives():
    made = link.unpack_chunk(link.pack_chunk(Chunk(1, math.nan, (), ())))
    assert math.isnan(made.observed_s)
    assert (made.times_s, made.targets) == ((), ())


def test_every_changed_or_cut_byte_is_noticed():
    data = link.pack(Message(Kind.CHUNK, 5, 9, 2.0, link.pack_chunk(CHUNK)))
    assert link.unpack(data, 5).body == link.pack_chunk(CHUNK)
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            assert link.unpack(bytes(changed), 5) is None
        assert link.unpack(data[:place], 5) is None
    assert link.unpack(data + b"\0", 5) is None
    assert link.unpack(data, 6) is None, "of another run"


def test_bodies_of_another_length_are_none():
    for body, unpack in ((link.pack_chunk(CHUNK), link.unpack_chunk), (link.pack_state(STATE), link.unpack_state)):
        for length in range(len(body)):
            made = unpack(body[:length])
            assert made is None or unpack is link.unpack_state, "of a state the world may be of any size"
    assert link.unpack_state(link.pack_state(STATE)[:-3]) is None
    assert link.unpack_chunk(link.pack_chunk(CHUNK) + b"\0" * 8) is None


def test_noise_is_no_message():
    rng = random.Random(3)
    for _ in range(20_000):
        noise = rng.randbytes(rng.randrange(0, 200))
        assert link.unpack(noise, 5) is None
        link.unpack_chunk(noise)
        link.unpack_state(noise)


def test_old_doubled_and_foreign_messages_are_left_out(ends):
    here, other = ends
    for run, sequence in ((5, 1), (5, 3), (5, 2), (5, 3), (6, 4), (5, 4)):
        here._end.send(link.pack(Message(Kind.ALIVE, run, sequence, 0.0)))
    here._end.send(b"noise")
    assert [message.sequence for message in other.receive()] == [1, 3, 4]


def test_nobody_waits_for_a_full_link(ends):
    here, _ = ends
    sent = [here.send(Kind.CHUNK, 0.0, b"\0" * 4000) for _ in range(2000)]
    assert sent[0]
    assert not sent[-1]
    assert not here.closed


def test_both_ends_see_that_the_other_is_gone(ends):
    here, other = ends
    other.send(Kind.ALIVE, 0.0)
    other.close()
    assert [message.kind for message in here.receive()] == [Kind.ALIVE], "what was said before is heard"
    assert here.closed
    assert not here.send(Kind.ALIVE, 0.0)
    assert not here.receive()


def test_who_speaks_to_nobody_is_told(ends):
    here, other = ends
    other.close()
    assert not here.send(Kind.ALIVE, 0.0)
    assert here.closed


def test_what_is_too_large_is_refused(ends):
    here, _ = ends
    with pytest.raises(ShapeError):
        here.send(Kind.CHUNK, 0.0, b"\0" * link.LARGEST_BYTES)


def test_it_needs_the_standard_library_only():
    code = "import dvgwm.robots.link, sys; print({'numpy', 'torch', 'pickle', 'multiprocessing'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
