"""Where a robot's controller is: a host's name to its IP address, so that one robot has one name."""

import socket

from dvgwm.runtime.errors import ConfigError, RobotCommunicationError


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
