"""Where the time goes: spans with host time, device time, work and bytes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

UNATTRIBUTED = "unattributed"


@dataclass(frozen=True, slots=True)
class Span:
    """One timed piece of work; ``depth`` 0 is a stage, 1 a part of one."""

    name: str
    start_s: float
    duration_s: float
    device_s: float | None
    flop: float
    nbytes: int
    depth: int


@dataclass(frozen=True, slots=True)
class StageRow:
    """All spans of one stage; ``share`` is of the wall time."""

    name: str
    calls: int
    total_s: float
    mean_s: float
    share: float
    flop: float


class Profiler:
    """Collects spans; give it to a pipeline and read `spans`, `summary`, `chrome_trace`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._depth = 0
        self.spans: list[Span] = []

    @contextmanager
    def span(self, name: str, flop: float = 0.0, nbytes: int = 0) -> Iterator[None]:
        """Time what runs inside."""
        depth, self._depth = self._depth, self._depth + 1
        start = self._clock()
        try:
            yield
        finally:
            self._depth = depth
            self.spans.append(Span(name, start, self._clock() - start, None, flop, nbytes, depth))

    def to_json(self) -> list[dict[str, Any]]:
        """Return every span as plain data."""
        return [asdict(span) for span in self.spans]
