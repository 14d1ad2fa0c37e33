"""One arm, one runtime: a lock for everything that an arm is commanded by, held by the kernel for as long as its process lives.

A lock is a name of the machine's abstract sockets. It lies in no folder, so that nobody can make, share or clean it away; every
user of the machine meets the same one, and it ends with its process.
"""

import hashlib
import socket
import struct
from collections.abc import Sequence
from typing import Any

from dvgwm.runtime.errors import RobotCommunicationError

from .host import place
from .spec import DriveOptions

CREDENTIALS = struct.Struct("3i")
"""Process, user and group of who holds a socket (SO_PEERCRED)."""


def identities(robot: Any, options: DriveOptions) -> Sequence[str]:
    """Return what a real robot is, however its address is spelt: what its driver says, or else what is at the address."""
    own = getattr(robot, "identities", None)
    return (place(options.address),) if own is None else own()


def lock(name: str) -> int:
    """Return the descriptor of a lock that one process of this machine can have on ``name``.

    Raises `RobotCommunicationError` where another one has it.
    """
    # Abstract: an address that begins with a zero byte. A digest, because such addresses are short.
    address = b"\0dvgwm-arm-" + hashlib.sha256(name.encode()).hexdigest().encode()
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        held.bind(address)
        held.listen()  # so that another one can see who has it
    except OSError:
        held.close()
        raise RobotCommunicationError(
            "ROBOT_LOCKED",
            f"another runtime has the arm at {name}{_holder(address)}; end it first, two cannot move one arm",
        ) from None
    return held.detach()


def _holder(address: bytes) -> str:
    """Return who has a lock, in words; nothing where he does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.setblocking(False)
            asking.connect(address)
            data = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        except OSError:
            return ""
        process, user, _ = CREDENTIALS.unpack(data)
        return f" (process {process} of user {user})"
