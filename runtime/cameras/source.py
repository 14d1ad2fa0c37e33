"""What a camera is to a reader, and which kinds there are: entry points of `dvgwm.cameras`, so that others can add theirs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .. import entries
from ..errors import ConfigError
from ..types import ImageArray

GROUP = "cameras"
FILE = "file"


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture, uint8 H W 3 RGB, with the stamp of the camera's own clock in seconds; 0 where it has none.

    ``here`` says that this clock is this machine's time of day, by which a picture's age is known.
    """

    image: ImageArray
    stamp_s: float = 0.0
    here: bool = False


class Source(Protocol):
    """An open camera.

    A ``recorded`` one shows what was once seen, and no arm may move by it. The frames of a ``noisy`` one differ from each
    other, whatever they show: one that repeats itself is frozen.
    """

    recorded: bool
    noisy: bool

    def read(self, seconds: float) -> Frame | None:
        """Return the next frame, None where none comes within ``seconds``; raises `CameraLostError` where no more will."""

    def close(self) -> None:
        """Let go of the camera."""


def kinds() -> tuple[str, ...]:
    """Return the names of all kinds of cameras."""
    return entries.names(GROUP)


def split(address: str) -> tuple[str, str]:
    """Return kind and place of ``KIND``, ``KIND:PLACE`` or the path of a recording; raises `ConfigError` for neither."""
    kind, _, place = address.partition(":")
    if kind in kinds():
        return kind, place
    if Path(address).exists():
        return FILE, address
    raise ConfigError(
        "CAMERA_UNKNOWN",
        f"no camera or recording {address!r}; wanted a path, or one of {', '.join(kinds())}, with :PLACE behind it",
    )


def open_source(address: str) -> Source:
    """Return the camera at ``address``, open; raises `ConfigError` for what is none or lacks its library, `CameraLostError`."""
    kind, place = split(address)
    opened: Callable[[str], Source] = entries.load(GROUP, kind)
    if not callable(opened):
        raise entries.broken(GROUP, entries.find(GROUP, kind), f"opens nothing: it is a {type(opened).__name__}")
    return opened(place)
