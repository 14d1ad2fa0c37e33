"""Where a robot's controller is: its address, however it is spelt, so that one robot has one name."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from dvgwm.runtime.errors import ConfigError, RobotCommunicationError

LISTENS = "0A"
"""The state of a socket in /proc/net/tcp that takes connections."""


def ip_address(host: str) -> str:
    """Return the IP address of ``host``, a name or an address without a port.

    Raises `ConfigError` for what is neither, `RobotCommunicationError` for a name that nobody knows.
    """
    if not host or any(character in host for character in "/:@ "):
        raise ConfigError("ARM_ADDRESS", f"wanted the name or IP address of a robot's controller, got {host!r}")
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        raise RobotCommunicationError(
            "ARM_HOST", f"no address of the host {host!r} is known: {error}; check the name, or give the IP address"
        ) from None


def place(address: str) -> str:
    """Return what is at ``address``, however it is spelt: a device's number, an endpoint or host; else ``address`` itself."""
    with suppress(OSError, ValueError):
        status = os.stat(address)
        if stat.S_ISCHR(status.st_mode):
            return f"device {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        return f"file {os.path.realpath(address)}"
    with suppress(OSError, ValueError):
        parts = urlsplit(address if "//" in address else f"//{address}")
        if parts.hostname:
            ip = socket.gethostbyname(parts.hostname)
            return f"host {ip}" if parts.port is None else endpoint(ip, parts.port)
    return f"address {address}"


def endpoint(ip: str, port: int) -> str:
    """Return the name of the TCP endpoint at ``ip`` and ``port``: one name where all of this machine's addresses are one."""
    if is_here(ip) and ip not in (listening := set(_listening(port))) and "0.0.0.0" in listening:  # noqa: S104 (read)
        return f"endpoint *:{port}"
    return f"endpoint {ip}:{port}"


def is_here(ip: str) -> bool:
    """Return whether ``ip`` is an address of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True


def _listening(port: int) -> Iterator[str]:
    """Yield the addresses of this machine on which somebody listens at ``port``, all of IPv6's as 0.0.0.0."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        lines = Path(table).read_text().splitlines()[1:] if Path(table).exists() else []
        for line in lines:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if state == LISTENS and int(number, 16) == port:
                v4 = len(address) == 8
                yield socket.inet_ntoa(bytes.fromhex(address)[::-1]) if v4 else "0.0.0.0"  # noqa: S104 (read)
