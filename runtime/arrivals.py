"""When things were made that arrive with a stamp of another clock, told from those that arrived fastest."""

from collections import deque

WINDOW_S = 5.0
"""The other clock may drift: only what arrived within this time says how the two differ."""
STEP_S = 1.0
"""A stamp that goes back by more than this is of a clock that was set, not of a message out of order."""


class Arrivals:
    """Turns stamps of a sender's clock into times of ours; one that was delayed on its way is told to be as old as it is."""

    def __init__(self) -> None:
        self._ahead = deque[tuple[float, float]]()
        self._last_s: float | None = None

    def made_s(self, stamp_s: float, arrived_s: float) -> float | None:
        """Return when that was made, on our clock, which is stamped ``stamp_s``; None for one seen before or out of order.

        A stamp of 0 is none: then it was made when it arrived.
        """
        if stamp_s == 0.0:
            return arrived_s
        if self._last_s is not None and stamp_s <= self._last_s:
            if self._last_s - stamp_s <= STEP_S:
                return None
            self._ahead.clear()
        self._last_s = stamp_s
        ahead_s = arrived_s - stamp_s
        while self._ahead and self._ahead[-1][1] >= ahead_s:
            self._ahead.pop()
        self._ahead.append((arrived_s, ahead_s))
        while self._ahead[0][0] < arrived_s - WINDOW_S:
            self._ahead.popleft()
        return stamp_s + self._ahead[0][1]
