"""ROS 1 as far as drivers need it: a master at an address, messages made from their text, topics held to their checksum.

rospy is Debian's: it is looked for where that puts it, and imported when a driver is opened.
"""

import importlib
import importlib.util
import os
import socket
import sys
import time
import xmlrpc.client
from collections.abc import Collection, Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from dvgwm.runtime.errors import ConfigError, RobotCommunicationError

from . import host
from .host import ip_address

PACKAGES = ("/usr/lib/python3/dist-packages", "/opt/ros/noetic/lib/python3/dist-packages")
PORT = 11311
ANSWER_S, FIRST_S = 2.0, 3.0
"""How long a master may take to answer, and a topic to bring its first message."""
KNOWN = 1
"""A master's answer if it knows the node."""
INSTALL = (
    "apt-get install --no-install-recommends python3-rospy python3-sensor-msgs (Debian 12, Python 3.11), or ROS Noetic"
)
HEADER = "\n" + "=" * 80 + "\nMSG: std_msgs/Header\nuint32 seq\ntime stamp\nstring frame_id\n"


def master(address: str) -> tuple[str, int]:
    """Return IP address and port of the master at ``address``: HOST, HOST:PORT, or either after ``ros://`` or ``http://``.

    Raises `ConfigError` for what is no address, `RobotCommunicationError` for a host that nobody knows.
    """
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        name, port = parts.hostname, parts.port or PORT
        if not name or parts.scheme not in ("", "ros", "http") or parts.path.strip("/") or parts.username:
            raise ValueError
    except ValueError:
        raise ConfigError("ARM_ADDRESS", f"wanted HOST or HOST:PORT of a ROS master, got {address!r}") from None
    return ip_address(name), port


def found() -> bool:
    """Return whether rospy can be imported; nothing is."""
    _look()
    return importlib.util.find_spec("rospy") is not None


def library(name: str) -> Any:
    """Return the module ``name`` of ROS; raises `ConfigError` where it is not installed."""
    _look()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            "ROS_MISSING", f"this robot wants ROS 1, which is not installed ({error}): {INSTALL}"
        ) from error


def _look() -> None:
    # Behind ours: what Debian has beside rospy would hide newer libraries of ours.
    sys.path += [path for path in PACKAGES if path not in sys.path and os.path.isdir(path)]


def messages(kind: str, fields: str, md5: str, parts: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the classes of a message with a header, and of ``parts``, its inner types, from their texts.

    Raises `ConfigError` where its checksum is not ``md5``: the two sides would not understand each other.
    """
    rule = "=" * 80
    inner = "".join(f"{rule}\nMSG: {name}\n{text}\n" for name, text in (parts or {}).items())
    text = f"std_msgs/Header header\n{fields}{HEADER}{inner}"
    made: dict[str, Any] = library("genpy.dynamic").generate_dynamic(kind, text)
    if made[kind]._md5sum != md5:
        raise ConfigError("ROS_MESSAGE", f"{kind}: wanted messages of checksum {md5}, got {made[kind]._md5sum}")
    return made


def open_node(ip: str, port: int) -> Any:
    """Return rospy with a node of ours at the master there; raises `RobotCommunicationError` where none answers."""
    rospy = library("rospy")
    uri = f"http://{ip}:{port}/"
    here = _answering(ip, port)
    # How rospy is told; a host name of one's own is left, where other machines know this one by it.
    os.environ["ROS_MASTER_URI"] = uri
    if "ROS_HOSTNAME" not in os.environ:
        os.environ.setdefault("ROS_IP", here)
    rospy.init_node("dvgwm", anonymous=True, disable_signals=True, disable_rosout=True)
    return rospy


def _answering(ip: str, port: int) -> str:
    """Return this machine's address as the master there sees it. rospy would wait for a master for ever."""
    try:
        with socket.create_connection((ip, port), ANSWER_S) as line:
            here: str = line.getsockname()[0]
        with _Proxy(ip, port) as proxy:
            proxy.getPid("/dvgwm")
    except (OSError, xmlrpc.client.Error) as error:
        raise RobotCommunicationError(
            "ROS_MASTER", f"no ROS master answers at {ip}:{port} ({error}); start roscore there, and look at the cable"
        ) from error
    return here


def identity(ip: str, port: int) -> str:
    """Return the name of the master there, the same by every address; raises as `open_node`."""
    _answering(ip, port)
    with _Proxy(ip, port) as proxy:
        process: Any = proxy.getPid("/dvgwm")
        uri: Any = proxy.getUri("/dvgwm")
    return f"ROS master {uri[2]} (process {process[2]})"


def topics(ip: str, port: int) -> dict[str, str]:
    """Return the kinds of all published topics; raises as `open_node`."""
    _answering(ip, port)
    with _Proxy(ip, port) as proxy:
        answer: Any = proxy.getPublishedTopics("/dvgwm", "")
    return dict(answer[2])


def publishers(ip: str, port: int) -> Mapping[str, frozenset[str]]:
    """Return the nodes that a master has registered as publishers of each topic; raises as `open_node`."""
    return _nodes(ip, port, 0)


def subscribers(ip: str, port: int, topic: str) -> frozenset[str]:
    """Return the nodes that hear ``topic``; raises as `open_node`."""
    return _nodes(ip, port, 1).get(topic, frozenset())


def publishing(ip: str, port: int, nodes: Collection[str], topic: str) -> Mapping[str, str]:
    """Return those of ``nodes`` at a master with ``topic`` still published: their names by their addresses.

    A node that was killed stays registered. One that does not answer is taken to be there: `rosnode cleanup` removes what is
    gone. Two names at one address are one node: another was given the port of one that was killed.
    """
    found = dict[str, str]()
    for node in sorted(nodes):
        address = node
        try:
            with _Proxy(ip, port) as proxy:
                known: Any = proxy.lookupNode("/dvgwm", node)
            if known[0] != KNOWN:  # it has left meanwhile
                continue
            address = known[2]
            with xmlrpc.client.ServerProxy(address, transport=_Transport()) as there:
                answer: Any = there.getPublications("/dvgwm")
            if topic not in [name for name, _ in answer[2]]:
                continue
        except ConnectionRefusedError:
            continue
        except (OSError, xmlrpc.client.Error, HTTPException, ValueError, TypeError):
            pass
        found[address] = node
    return found


def _nodes(ip: str, port: int, part: int) -> Mapping[str, frozenset[str]]:
    try:
        with _Proxy(ip, port) as proxy:
            answer: Any = proxy.getSystemState("/dvgwm")
    except (OSError, xmlrpc.client.Error, HTTPException) as error:
        raise RobotCommunicationError(
            "ROS_MASTER", f"the ROS master at {ip}:{port} does not answer: {error}"
        ) from error
    return {topic: frozenset(nodes) for topic, nodes in answer[2][part]}


def is_here(ip: str, port: int, node: str) -> bool:
    """Return whether ``node`` runs on this machine, whose clock its stamps are of then; raises as `open_node`."""
    try:
        with _Proxy(ip, port) as proxy:
            answer: Any = proxy.lookupNode("/dvgwm", node)
        return host.is_here(socket.gethostbyname(urlsplit(answer[2]).hostname or ""))
    except (OSError, xmlrpc.client.Error, HTTPException, UnicodeError):
        return False


def sender(message: Any) -> str:
    """Return the name of a message's node."""
    return str(message._connection_header["callerid"])


def first(rospy: Any, topic: str, md5s: Sequence[str], seconds: float = FIRST_S) -> Any:
    """Return the connection header of the first message on ``topic``.

    Raises `RobotCommunicationError` where none comes, `ConfigError` where its checksum is none of ``md5s``.
    """
    came: list[Any] = []
    listener = rospy.Subscriber(topic, rospy.AnyMsg, came.append, queue_size=1)
    end_s = time.monotonic() + seconds
    while not came and time.monotonic() < end_s:
        time.sleep(0.005)
    listener.unregister()
    if not came:
        raise RobotCommunicationError(
            "ROS_SILENT", f"nothing came on {topic} within {seconds:g} s; start the robot's driver, or name its topic"
        )
    header = came[0]._connection_header
    if header["md5sum"] not in md5s:
        raise ConfigError(
            "ROS_MESSAGE",
            f"{topic}: wanted messages of checksum {' or '.join(md5s)}, got {header['type']} of {header['md5sum']}",
        )
    return header


class _Proxy(xmlrpc.client.ServerProxy):
    """A master that has `ANSWER_S` to answer."""

    def __init__(self, ip: str, port: int) -> None:
        super().__init__(f"http://{ip}:{port}/", transport=_Transport())


class _Transport(xmlrpc.client.Transport):
    def make_connection(self, host: Any) -> Any:
        connection = super().make_connection(host)
        connection.timeout = ANSWER_S
        return connection
