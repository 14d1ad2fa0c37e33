"""What planner and motion say to each other: structs with sequence, time and checksum, a packet each. Standard library only.

Nothing on the link is ever executed, and nothing has a length that its receiver has not checked. Times are those of the
machine's monotonic clock, which both processes share.
"""

import socket
import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import inf, nan

from dvgwm.runtime.errors import ShapeError

MAGIC, VERSION = b"dvgw", 2
HEADER = struct.Struct("<4sHHQQd")
"""Magic, version, kind, run, sequence, time sent."""
CHECKSUM = struct.Struct("<I")
CHUNK = struct.Struct("<QdHH")
"""Sequence of the chunk, time observed (NaN: none), targets, joints; then the times, then the targets row by row."""
STATE = struct.Struct("<HHHHd")
"""Log code, joint, flags, joints, time measured; then positions commanded and measured, then the world."""
FRAME = struct.Struct("<d")
"""When the camera's newest frame was taken; NaN: there is no camera to wait for."""
LARGEST_BYTES = 65_536
LARGEST_TEXT = 1_000
"""Bytes of a `Kind.TOLD`."""
NO_JOINT = 0xFFFF


class Kind(IntEnum):
    """What a message is.

    To motion: a sign of life with the newest frame's time, something to play, a wish to stop, or to be done with it, and that a
    person armed the robot, with the pose that was seen then. From motion: its state, what is wrong with the robot, in words,
    and what there is at its address.
    """

    ALIVE = 1
    CHUNK = 2
    STOP = 3
    END = 4
    STATE = 5
    ARM = 6
    TOLD = 7
    ABOUT = 8


@dataclass(frozen=True, slots=True)
class Message:
    """One datagram: ``sequence`` increases with every message of its sender, ``sent_s`` is when it was sent."""

    kind: Kind
    run: int
    sequence: int
    sent_s: float
    body: bytes = b""


def pack(message: Message) -> bytes:
    """Return the bytes of a message; raises `ShapeError` where it is too large for a datagram."""
    head = HEADER.pack(MAGIC, VERSION, message.kind, message.run, message.sequence, message.sent_s)
    made = head + message.body
    if len(made) + CHECKSUM.size > LARGEST_BYTES:
        raise ShapeError("LINK_SIZE", f"wanted at most {LARGEST_BYTES} bytes in a message, got {len(made)}")
    return made + CHECKSUM.pack(zlib.crc32(made))


def unpack(data: bytes, run: int) -> Message | None:
    """Return the message in ``data``, None where it is none: cut, changed, of another version or of another run."""
    if not HEADER.size + CHECKSUM.size <= len(data) <= LARGEST_BYTES:
        return None
    made, (checksum,) = data[: -CHECKSUM.size], CHECKSUM.unpack(data[-CHECKSUM.size :])
    magic, version, kind, of_run, sequence, sent_s = HEADER.unpack_from(made)
    if (magic, version, of_run) != (MAGIC, VERSION, run) or zlib.crc32(made) != checksum or kind not in tuple(Kind):
        return None
    return Message(Kind(kind), of_run, sequence, sent_s, made[HEADER.size :])


@dataclass(frozen=True, slots=True)
class Chunk:
    """Joint targets as they are sent: a sequence, when that was seen which they follow from, times and rows of targets."""

    sequence: int
    observed_s: float
    times_s: tuple[float, ...]
    targets: tuple[tuple[float, ...], ...]


def pack_chunk(chunk: Chunk) -> bytes:
    """Return the body of a `Kind.CHUNK`."""
    count, width = len(chunk.targets), len(chunk.targets[0]) if chunk.targets else 0
    numbers = (*chunk.times_s, *(value for row in chunk.targets for value in row))
    return CHUNK.pack(chunk.sequence, chunk.observed_s, count, width) + _doubles(numbers)


def unpack_chunk(body: bytes) -> Chunk | None:
    """Return the chunk in a body, None where its length is not what it says."""
    if len(body) < CHUNK.size:
        return None
    sequence, observed_s, count, width = CHUNK.unpack_from(body)
    if len(body) != CHUNK.size + 8 * count * (1 + width):
        return None
    numbers = struct.unpack_from(f"<{count * (1 + width)}d", body, CHUNK.size)
    rows = tuple(numbers[count + row * width : count + (row + 1) * width] for row in range(count))
    return Chunk(sequence, observed_s, numbers[:count], rows)


@dataclass(frozen=True, slots=True)
class State:
    """Motion's state as it is sent: what it has to tell, where the joints are, the simulated world's numbers.

    ``code`` numbers a log code of `messages.MESSAGES`, -1 where there is nothing to tell; ``joint`` is None where none is
    meant. A robot that is not ``armed`` is sent nothing. ``measured_s`` is when the robot last answered, on motion's clock.
    """

    code: int
    joint: int | None
    latched: bool
    resting: bool
    commanded: tuple[float, ...]
    measured: tuple[float, ...]
    world: tuple[float, ...] = ()
    armed: bool = True
    measured_s: float = -inf


def pack_state(state: State) -> bytes:
    """Return the body of a `Kind.STATE`."""
    flags = state.latched | state.resting << 1 | state.armed << 2
    joint = NO_JOINT if state.joint is None else state.joint
    head = STATE.pack(state.code + 1, joint, flags, len(state.commanded), state.measured_s)
    return head + _doubles((*state.commanded, *state.measured, *state.world))


def unpack_state(body: bytes) -> State | None:
    """Return the state in a body, None where its length is not what it says."""
    if len(body) < STATE.size:
        return None
    code, joint, flags, width, measured_s = STATE.unpack_from(body)
    count, rest = divmod(len(body) - STATE.size, 8)
    if rest or count < 2 * width:
        return None
    numbers = struct.unpack_from(f"<{count}d", body, STATE.size)
    return State(
        code - 1,
        None if joint == NO_JOINT else joint,
        bool(flags & 1),
        bool(flags & 2),
        numbers[:width],
        numbers[width : 2 * width],
        numbers[2 * width :],
        bool(flags & 4),
        measured_s,
    )


def pack_frame(time_s: float | None) -> bytes:
    """Return the body of a `Kind.ALIVE`: when the camera's newest frame was taken, None where there is no camera."""
    return FRAME.pack(nan if time_s is None else time_s)


def unpack_frame(body: bytes) -> float | None:
    """Return the time in a body, None where it has none."""
    time_s: float = FRAME.unpack(body)[0] if len(body) == FRAME.size else nan
    return None if time_s != time_s else time_s


def pack_pose(positions: Sequence[float]) -> bytes:
    """Return the body of a `Kind.ARM`."""
    return _doubles(positions)


def unpack_pose(body: bytes) -> tuple[float, ...]:
    """Return the positions in a body, as many as there are."""
    return struct.unpack_from(f"<{len(body) // 8}d", body)


class Line:
    """One end of the link: sends without ever waiting for the other, and gives what came whole, in order, and of this run."""

    def __init__(self, end: socket.socket, run: int) -> None:
        end.setblocking(False)
        self._turn = threading.Lock()  # two threads' messages go in the order of their sequence
        self._end, self._run, self._sent, self._got = end, run, 0, 0
        self.closed = False

    def send(self, kind: Kind, now_s: float, body: bytes = b"") -> bool:
        """Send a message and return whether it went: a full or closed link takes nothing, and nobody waits for it."""
        with self._turn:
            self._sent += 1
            try:
                self._end.send(pack(Message(kind, self._run, self._sent, now_s, body)))
            except BlockingIOError:
                return False
            except OSError:
                self.closed = True
                return False
            return True

    def receive(self) -> Sequence[Message]:
        """Return the messages that have come, in their order; older ones, and what is no message, are left out."""
        messages: list[Message] = []
        while not self.closed:
            try:
                data = self._end.recv(LARGEST_BYTES + 1)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:  # the other end is gone
                self.closed = True
                break
            message = unpack(data, self._run)
            if message is not None and message.sequence > self._got:
                self._got = message.sequence
                messages.append(message)
        return messages

    def close(self) -> None:
        """Close this end."""
        self.closed = True
        self._end.close()


def link(run: int) -> tuple[Line, socket.socket]:
    """Return one end of a new link, and the socket of the other, for another process to make its end of."""
    # Packets in sequence: whole like datagrams, and unlike them they tell when the other end is gone.
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Line(here, run), there


def _doubles(numbers: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}d", *numbers)
