"""The camera as the loop sees it: its newest frame, never an old one, and never waited for longer than stated."""

import os
import subprocess
import time

from ..child import Child
from ..errors import CameraLostError, CameraMismatchError, ConfigError, DvgwmError
from .slots import Shown, Slots, Tally
from .source import split

OPEN_S, LOST_S = 10.0, 5.0
"""How long a camera may take to show something at first, and to come back where it was lost."""
FRESH_S = 0.15
"""How old a frame may be that is looked at."""
HUNG_S = 2.0
"""A camera that shows nothing new for so long is started anew."""
RESTARTS = 3
POLL_S = 0.002


class CameraReader:
    """A camera at ``address``, its frames fitted to a size; implements `runtime.seams.Camera`.

    Raises `ConfigError` for an address that is none, or a library that is not installed, `CameraLostError` where it shows
    nothing, `CameraMismatchError` where it shows another size than at first.
    """

    def __init__(self, address: str, height_px: int, width_px: int) -> None:
        split(address)
        self.address, self.restarts = address, 0
        self._slots = Slots(height_px, width_px)
        self._order = {"address": address, "height_px": height_px, "width_px": width_px, "memory": self._slots.fd}
        self._written, self._moved_s = 0, 0.0
        self._life: int | None = None
        self._child: Child | None = None
        self._start()

    @property
    def recorded(self) -> bool:
        """Whether it shows a recording."""
        return self._slots.tally().recorded

    def tally(self) -> Tally:
        """Return how many frames there were, and which were left out."""
        return self._slots.tally()

    def frame_s(self) -> float | None:
        """Return when the newest frame was taken, on the machine's monotonic clock; None before the first."""
        return self._slots.newest_s()

    def latest(self) -> Shown:
        """Return the newest frame, at most `FRESH_S` old; waits `LOST_S` for a camera that was lost, `OPEN_S` for its first."""
        end_s = time.monotonic() + (LOST_S if self._slots.tally().written else OPEN_S)
        while True:
            shown = self._slots.newest()
            if shown is not None and time.monotonic() - shown.at_s <= FRESH_S:
                return shown
            self._revive()
            if time.monotonic() > end_s:
                raise CameraLostError(
                    "CAMERA_STALE", f"{self.address}: {self._old(shown)}; look at its cable, start again"
                )
            time.sleep(POLL_S)

    def close(self) -> None:
        """End the camera's process, which has a second to let go of the camera."""
        self._end()
        self._slots.close()

    def _old(self, shown: Shown | None) -> str:
        if shown is None:
            return f"no frame came within {OPEN_S:g} s"
        tally = self._slots.tally()
        left_out = (
            f"; {tally.old} out of order and {tally.frozen} frozen ones were left out"
            if tally.old + tally.frozen
            else ""
        )
        said = "" if self._child is None else self._child.said().rpartition("\n")[2]
        return (
            f"wanted a frame at most {FRESH_S:g} s old, got one of {time.monotonic() - shown.at_s:.1f} s ago{left_out}"
            f"{f' (its process said last: {said})' if said else ''}"
        )

    def _revive(self) -> None:
        """Start the camera anew where it ended or hangs; raises what it ended with, where that cannot help."""
        ended = self._child is not None and self._child.process.poll() is not None
        written = self._slots.tally().written
        if written != self._written:  # old frames may come: a camera that is late does not hang
            self._written, self._moved_s = written, time.monotonic()
        since_s = max(self._started_s, self._moved_s)
        hung_s = HUNG_S if written else OPEN_S
        if not ended and time.monotonic() - since_s < hung_s:
            return
        error = self._error() if ended else None
        if error is not None and (
            not isinstance(error, CameraLostError) or self.restarts >= RESTARTS or not self.frame_s()
        ):
            raise error
        if self.restarts < RESTARTS:
            self.restarts += 1
            self._end()
            self._start()

    def _start(self) -> None:
        there, self._life = os.pipe()
        order = {**self._order, "life": there}
        self._child = Child("dvgwm.runtime.cameras.child", order, [self._slots.fd, there])
        os.close(there)
        self._started_s = time.monotonic()

    def _end(self) -> None:
        if self._life is not None:
            os.close(self._life)
            self._life = None
        if self._child is not None:
            process = self._child.process
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._child.close()
            self._child = None

    def _error(self) -> DvgwmError | None:
        """Return what the process that ended said."""
        if self._child is None:
            return None
        said = self._child.said()
        last = said.splitlines()[-1] if said else f"code {self._child.process.returncode}"
        ended = CameraLostError("CAMERA_PROCESS", f"{self.address}: the camera's process ended: {last}")
        return self._child.error((ConfigError, CameraLostError, CameraMismatchError)) or ended
