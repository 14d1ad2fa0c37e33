"""Spans, the table they make, and what may be said beside the paper's figure."""

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from dvgwm.runtime.display.latency import against_paper, is_paper_work, latency_table, seconds, work
from dvgwm.runtime.profiler import Profiler
from dvgwm.runtime.samplers.spec import SamplerSpec


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def recorded():
    clock = Clock()
    profiler = Profiler(clock)
    for _ in range(2):
        with profiler.span("preview"):
            for _ in range(3):
                with profiler.span("preview: engine", flop=10.0):
                    clock.now += 1.0
            clock.now += 0.5
        clock.now += 0.25
    with profiler.span("decode", flop=7.0):
        clock.now += 2.0
    return profiler


def test_rows_sum_to_the_wall_time_and_carry_their_parts_work():
    preview, decode, rest = recorded().summary(10.0)
    assert (preview.calls, preview.total_s, preview.mean_s, preview.flop) == (2, 7.0, 3.5, 60.0)
    assert (decode.name, decode.total_s, decode.flop) == ("decode", 2.0, 7.0)
    assert (rest.name, rest.total_s) == ("unattributed", 1.0)
    assert sum(row.share for row in (preview, decode, rest)) == pytest.approx(1.0)


def test_the_trace_is_chromes_in_microseconds_with_parts_inside_stages():
    events = recorded().chrome_trace()["traceEvents"]
    assert len(events) == 9
    stage, part = events[0], events[1]
    assert (stage["name"], stage["ph"], stage["ts"], stage["dur"]) == ("preview", "X", 0.0, 3.5e6)
    assert (part["name"], part["ts"], part["dur"]) == ("preview: engine", 0.0, 1e6)


def test_a_failure_inside_a_span_is_timed_too():
    profiler = Profiler()
    with pytest.raises(ValueError, match="x"), profiler.span("a"):
        raise ValueError("x")
    with profiler.span("b"):
        pass
    assert [(span.name, span.depth) for span in profiler.spans] == [("a", 0), ("b", 0)]


class Device:
    """A device whose work, ``takes`` seconds a piece, begins when the one before is done."""

    def __init__(self, clock, takes):
        self.clock, self.takes, self.busy_until = clock, takes, 0.0

    def give(self):
        self.busy_until = max(self.busy_until, self.clock.now) + self.takes

    def mark(self):
        return max(self.busy_until, self.clock.now)

    def elapsed(self, start, end):
        return end - start


def on_device():
    clock = Clock()
    profiler, device = Profiler(clock), Device(clock, 2.0)
    with profiler.span("preview", on=device):
        for _ in range(3):
            with profiler.span("preview: engine", flop=1.0, on=device):
                clock.now += 0.25
                device.give()
        clock.now = device.busy_until
    return profiler


def test_a_device_that_works_behind_the_host_is_timed_by_its_own_marks():
    *parts, stage = on_device().spans
    assert [part.duration_s for part in parts] == [0.25] * 3, "giving it the work"
    assert [part.device_start_s for part in parts] == [100.0, 102.25, 104.25]
    assert [part.device_s for part in parts] == [2.25, 2.0, 2.0]
    assert (stage.duration_s, stage.device_start_s, stage.device_s) == (6.25, 100.0, 6.25)


def test_the_trace_has_a_line_for_the_device_where_it_has_time_of_its_own():
    events = on_device().chrome_trace()["traceEvents"]
    assert [(event["tid"], event["ts"], event["dur"]) for event in events if "engine" in event["name"]] == [
        (1, 0.0, 0.25e6), (1, 0.25e6, 0.25e6), (1, 0.5e6, 0.25e6),
        (2, 0.0, 2.25e6), (2, 2.25e6, 2e6), (2, 4.25e6, 2e6),
    ]  # fmt: skip
    assert {event["tid"] for event in recorded().chrome_trace()["traceEvents"]} == {1}


def test_marks_of_a_stage_that_failed_are_forgotten():
    clock = Clock()
    profiler, device = Profiler(clock), Device(clock, 1.0)

    def fail():
        with profiler.span("a", on=device):
            with profiler.span("a: engine", on=device):
                device.give()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with profiler.span("b", on=device):
        clock.now += 2.0
    assert [span.device_s for span in profiler.spans] == [None, None, 1.0]


def test_a_span_costs_microseconds():
    profiler, started = Profiler(), time.perf_counter()
    for _ in range(2000):
        with profiler.span("a"):
            pass
    assert (time.perf_counter() - started) / 2000 < 50e-6


def test_only_the_papers_work_is_set_against_its_time(make_bundle):
    manifest = make_bundle().manifest
    stages = list(manifest.pipeline)
    full = replace(
        manifest,
        model=replace(manifest.model, preset="dvgwm_5b"),
        input=replace(manifest.input, height_px=480, width_px=720),
    )
    steps = {"preview": SamplerSpec("ddim_v", 50, 6.0), "refine": SamplerSpec("euler_flow", 4)}
    paper = [replace(stage, sampler=steps.get(stage.name, stage.sampler)) for stage in stages]
    assert is_paper_work(full, paper, 49)
    assert not is_paper_work(full, paper, 25)
    assert not is_paper_work(full, stages, 49)
    assert not is_paper_work(manifest, paper, 49)
    assert against_paper(8.87, 7.171e15, True) == "10.0 x faster"
    assert against_paper(1.0, 7.171e12, False) == "not comparable: 0.001 x of the work"


def test_the_table_fits_a_terminal_and_always_shows_the_papers_row():
    profiler = recorded()
    console = Console(width=80, file=io.StringIO())
    console.print(latency_table(profiler.summary(10.0), 3.0, 2, "not comparable: 0.5 x of the work"))
    text = console.file.getvalue()
    for part in ("unattributed", "sum = wall time", "10.00 s", "cold start", "88.7 s", "7.17 PFLOP", "not comparable"):
        assert part in text
    assert "…" not in text


def test_numbers_for_people():
    assert [seconds(v) for v in (12.345, 0.0045, 7.8e-5)] == ["12.35 s", "4.50 ms", "78 us"]
    assert [work(v) for v in (0.0, 8.12e11, 1.5e6)] == ["", "812 GFLOP", "1.5 MFLOP"]
