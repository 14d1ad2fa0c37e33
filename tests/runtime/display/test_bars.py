"""Bars of stages on a terminal: each ends where its stage is done, and begins anew with the next plan."""

import io
import time

import pytest
from rich.progress import Progress

from dvgwm.runtime.display import results


class Terminal(io.StringIO):
    """What bars are drawn on."""

    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """The bars that were made, on a terminal."""
    made = []

    class Kept(Progress):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **more)
            made.append(self)

    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(results, "Progress", Kept)
    return made


def test_a_bar_stands_still_once_its_stage_is_done(shown):
    with results.progress_bars() as on_progress:
        on_progress("encode", 0, 0)
        on_progress("preview", 0, 0)
        for step in (1, 2, 3):
            on_progress("preview", step, 3)
        on_progress("act", 0, 0)
        encode, preview, act = shown[0].tasks
        assert [task.finished for task in (encode, preview, act)] == [True, True, False]
        before = encode.finished_time, preview.finished_time
        time.sleep(0.05)
        assert (encode.finished_time, preview.finished_time) == before
        on_progress("preview", 0, 0)
        assert not shown[0].tasks[1].finished
