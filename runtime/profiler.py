"""Measured spans of time: host time, device time, work and bytes."""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

UNATTRIBUTED = "unattributed"


class Timeline(Protocol):
    """A device's own time line (`backends.backend.Backend`): the host gives it work and is far ahead of it."""

    def mark(self) -> Any | None:
        """Return a mark behind all work given until now; None if the device has no time of its own."""

    def elapsed(self, start: Any, end: Any) -> float:
        """Return the seconds between two marks, after waiting for the second."""


@dataclass(frozen=True, slots=True)
class Span:
    """One timed piece of work; ``depth`` 0 is a stage, 1 a part of one.

    ``start_s`` and ``duration_s`` are the host's. On a device with time of its own a part's times are of giving it the
    work; ``device_start_s``, on the host's clock, and ``device_s`` are then its own times, else None.
    """

    name: str
    start_s: float
    duration_s: float
    device_start_s: float | None
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
        self._marks: list[tuple[int, Any, Any]] = []
        self.spans: list[Span] = []

    @contextmanager
    def span(self, name: str, flop: float = 0.0, nbytes: int = 0, on: Timeline | None = None) -> Iterator[None]:
        """Time the block, on the time line of the device ``on``, too.

        The outermost span has to end when the device is idle: then the marks of it and its parts are read.
        """
        depth, self._depth = self._depth, self._depth + 1
        if depth == 0:
            self._marks.clear()  # of a stage that failed
        start, begun, whole = self._clock(), on.mark() if on else None, False
        try:
            yield
            whole = True
        finally:
            self._depth = depth
            self.spans.append(Span(name, start, self._clock() - start, None, None, flop, nbytes, depth))
            if on and begun is not None and whole:
                self._marks.append((len(self.spans) - 1, begun, on.mark()))
                if depth == 0:
                    self._read_marks(on)

    def _read_marks(self, device: Timeline) -> None:
        """Fill in the spans' times on ``device``; its clock meets the host's at the start of the outermost span."""
        outermost, origin, _ = self._marks[-1]
        for index, begun, ended in self._marks:
            start_s = self.spans[outermost].start_s + device.elapsed(origin, begun)
            self.spans[index] = replace(
                self.spans[index], device_start_s=start_s, device_s=device.elapsed(begun, ended)
            )
        self._marks.clear()

    def summary(self, wall_s: float) -> tuple[StageRow, ...]:
        """Return a row per stage in order of first appearance, then the rest of the time: they sum to ``wall_s``.

        The work of a stage is its own and its parts'.
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
        """Return the spans in Chrome's trace format, times in microseconds; opens in Perfetto.

        The host is thread 1; a device with time of its own is thread 2.
        """
        origin = min((span.start_s for span in self.spans), default=0.0)
        events = [_event(span, span.start_s - origin, span.duration_s, 1) for span in self._started()]
        events += [
            _event(span, span.device_start_s - origin, span.device_s, 2)
            for span in self._started()
            if span.device_start_s is not None and span.device_s is not None
        ]
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def _started(self) -> list[Span]:
        return sorted(self.spans, key=lambda span: (span.start_s, span.depth))

    def to_json(self) -> list[dict[str, Any]]:
        """Return every span as plain data."""
        return [asdict(span) for span in self.spans]


def _event(span: Span, start_s: float, duration_s: float, thread: int) -> dict[str, Any]:
    times = {"ts": start_s * 1e6, "dur": duration_s * 1e6}
    return {"ph": "X", "name": span.name, **times, "pid": 1, "tid": thread, "args": {"gflop": span.flop / 1e9}}


def peak_memory_bytes() -> int:
    """Return the largest resident size of this process so far."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def available_memory_bytes() -> float:
    """Return the system's memory without swapping; infinity if it does not say."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable:"))
    return math.inf


def _within(span: Span, stage: Span) -> bool:
    return stage.start_s <= span.start_s <= stage.start_s + stage.duration_s


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
