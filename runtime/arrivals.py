"""When things were made that arrive with a stamp of their sender's clock: a model of that clock, and of who else stamps.

If the clock is this machine's own, a stamp tells its age. If not, the two clocks differ by an offset that drifts, and what
arrived fastest tells how much: a constant delay is not seen then. A clock may be set, which is told, and shows by stamps that
go on regularly from another time. A sender whose stamps are of two clocks that alternate, or whose clock is set back again and
again, cannot be believed.
"""

from collections import deque
from dataclasses import dataclass
from math import isfinite

WINDOW_S = 5.0
"""The other clock may drift: only what arrived within this time says how the two differ."""
STEP_S = 0.1
"""A clock that is set by more than this is told."""
AGAIN_S = 60.0
"""A clock that is set back twice within this time is none: a recording that begins again, or two senders."""
ALTERNATING = 3
"""So often within `WINDOW_S` stamps of an older clock may go on between those of a newer one."""
UNEVEN, UNEVEN_S = 0.25, 0.005
"""How far two stamps may be from as far apart as their arrivals where they go on regularly: a share, and seconds."""
EPOCH_S = 1e9
"""Larger stamps count from 1970, as this machine's clock does; smaller ones from when something was switched on."""
AHEAD_S = 0.05
"""A stamp that is further in the future is of another clock."""


@dataclass(frozen=True, slots=True)
class Stamped:
    """A stamp of the sender's clock, and when it arrived on ours."""

    stamp_s: float
    arrived_s: float


class Arrivals:
    """Turns stamps of a sender's clock into times of ours; one that was delayed on its way is told to be as old as it is.

    ``fault`` says why no stamp of this sender can be believed any more, None while they can; ``said`` how its clock was set.
    """

    def __init__(self) -> None:
        self.fault: str | None = None
        self.said = ""
        self._newest: Stamped | None = None
        self._before_s = float("-inf")
        self._behind: Stamped | None = None
        self._ahead = deque[tuple[float, float]]()
        self._alternated = deque[float](maxlen=ALTERNATING)
        self._set_back_s = float("-inf")

    def made_s(self, stamp_s: float, arrived_s: float, wall_s: float | None = None) -> float | None:
        """Return when that was made, on our clock, which is stamped ``stamp_s``; None for what is not new or has no sense.

        ``wall_s`` is the time of day at its arrival, given where the sender's clock is this machine's. A stamp of 0 is none:
        then it was made when it arrived.
        """
        if stamp_s == 0.0:
            return arrived_s
        if self.fault is not None or not isfinite(stamp_s):
            return None
        now = Stamped(stamp_s, arrived_s)
        if self._newest is not None and stamp_s <= self._newest.stamp_s and not self._is_set_back(now, self._newest):
            return None
        offset_s = self._offset_s(now)
        if self._newest is not None:
            self._before_s = self._newest.stamp_s
        self._newest = now
        if wall_s is not None and stamp_s > EPOCH_S and wall_s - stamp_s >= -AHEAD_S:
            return arrived_s - max(wall_s - stamp_s, 0.0)
        return stamp_s + offset_s

    def _offset_s(self, now: Stamped) -> float:
        """Return how far our clock is ahead of the sender's, by what arrived fastest of late."""
        ahead_s = now.arrived_s - now.stamp_s
        if self._newest is not None and self._ahead and self._ahead[0][1] - ahead_s > STEP_S:
            jumped_s = (now.stamp_s - self._newest.stamp_s) - (now.arrived_s - self._newest.arrived_s)
            if jumped_s > STEP_S:
                self.said = f"its clock was set forward by {jumped_s:.2f} s"
        while self._ahead and self._ahead[-1][1] >= ahead_s:
            self._ahead.pop()
        self._ahead.append((now.arrived_s, ahead_s))
        while self._ahead[0][0] < now.arrived_s - WINDOW_S:
            self._ahead.popleft()
        return self._ahead[0][1]

    def _is_set_back(self, now: Stamped, newest: Stamped) -> bool:
        """Return whether a stamp that is not newer than the newest is of a clock that was set back; note what else it shows."""
        behind = self._behind
        if now.stamp_s == newest.stamp_s or now.stamp_s > self._before_s:  # the same again, or overtaken on its way
            return False
        if behind is not None and now.stamp_s == behind.stamp_s:
            return False
        self._behind = now
        if behind is None or now.stamp_s < behind.stamp_s:
            return False
        if behind.arrived_s < newest.arrived_s:  # both clocks go on
            self._alternate(newest.stamp_s - now.stamp_s, now.arrived_s)
            return False
        passed_s = now.arrived_s - behind.arrived_s
        if abs(now.stamp_s - behind.stamp_s - passed_s) > UNEVEN * passed_s + UNEVEN_S:
            return False
        return self._set_back(now, newest.stamp_s + now.arrived_s - newest.arrived_s - now.stamp_s)

    def _alternate(self, apart_s: float, at_s: float) -> None:
        self._alternated.append(at_s)
        if len(self._alternated) == ALTERNATING and at_s - self._alternated[0] <= WINDOW_S:
            self.fault = f"stamps of two clocks alternate, {apart_s:.2f} s apart: two senders; end one"

    def _set_back(self, now: Stamped, by_s: float) -> bool:
        """Take over a clock that was set back by ``by_s``; return whether it can be believed."""
        if now.arrived_s - self._set_back_s < AGAIN_S:
            self.fault = f"its clock was set back twice within {AGAIN_S:g} s: two senders, or a recording"
        self.said = f"its clock was set back by {by_s:.2f} s"
        self._set_back_s, self._before_s = now.arrived_s, float("-inf")
        self._newest = self._behind = None
        self._ahead.clear()
        return self.fault is None
