"""Measures where the time goes: spans with host time, device time, work and bytes."""

import resource
import sys
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

    def summary(self, wall_s: float) -> tuple[StageRow, ...]:
        """Return a row per stage in order of first appearance, then what no stage accounts for: they sum to ``wall_s``.

        The work of a stage is its own and that of its parts.
        """
        rows = []
        for name in dict.fromkeys(span.name for span in self._started() if span.depth == 0):
            own = [span for span in self.spans if span.depth == 0 and span.name == name]
            inside = [span for span in self.spans if any(_within(span, stage) for stage in own)]
            total = sum(span.duration_s for span in own)
            flop = sum(span.flop for span in inside)
            rows.append(StageRow(name, len(own), total, total / len(own), _share(total, wall_s), flop))
        rest = wall_s - sum(row.total_s for row in rows)
        return (*rows, StageRow(UNATTRIBUTED, 1, rest, rest, _share(rest, wall_s), 0.0))

    def chrome_trace(self) -> dict[str, Any]:
        """Return the spans in Chrome's trace format, times in microseconds; opens in Perfetto."""
        origin = min((span.start_s for span in self.spans), default=0.0)
        events = [
            {
                "ph": "X",
                "name": span.name,
                "ts": (span.start_s - origin) * 1e6,
                "dur": span.duration_s * 1e6,
                "pid": 1,
                "tid": 1,
                "args": {"gflop": span.flop / 1e9},
            }
            for span in self._started()
        ]
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def _started(self) -> list[Span]:
        return sorted(self.spans, key=lambda span: (span.start_s, span.depth))

    def to_json(self) -> list[dict[str, Any]]:
        """Return every span as plain data."""
        return [asdict(span) for span in self.spans]


def peak_memory_bytes() -> int:
    """Return the largest resident size of this process so far."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _within(span: Span, stage: Span) -> bool:
    return stage.start_s <= span.start_s <= stage.start_s + stage.duration_s


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
