"""What a person is shown while something takes a while: bars in a terminal, a line now and then in a log."""

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LOG_EVERY_S = 15.0


class Lines:
    """Within it, a line for everything that takes a while: a terminal sees bars move, a log a line now and then."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.fields[text]}"))
        silent = not self._console.is_terminal
        self._bars = Progress(*columns, TimeElapsedColumn(), console=self._console, disable=silent)
        self._said_s: dict[str, float] = {}
        self._rows: dict[str, TaskID] = {}

    def __enter__(self) -> "Lines":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def count(self, label: str) -> Callable[[int, int], None]:
        """Return what is called with how many are done and how many there are."""

        def report(done: int, total: int) -> None:
            self._say(label, done / max(total, 1), f"{done} of {total}", last=done == total)

        return report

    def steps(self, label: str) -> Callable[[Any], None]:
        """Return what is called with a training loop's progress: loss, rate, time left."""

        def report(now: Any) -> None:
            rate = f"{now.samples_per_s:.1f} samples/s, {now.seconds_left / 60:.1f} min left"
            self._say(label, now.share, f"step {now.step}, loss {now.loss:.4f}, {rate}", last=now.share >= 1.0)

        return report

    def _say(self, label: str, share: float, text: str, last: bool) -> None:
        if label not in self._rows:
            self._rows[label] = self._bars.add_task(label, total=1.0, text="")
        self._bars.update(self._rows[label], completed=share, text=text)
        now_s = time.monotonic()
        if not self._console.is_terminal and (last or now_s - self._said_s.get(label, 0.0) > LOG_EVERY_S):
            self._said_s[label] = now_s
            self._console.print(f"{label}: {text}", highlight=False)
