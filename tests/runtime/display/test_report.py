"""The page of a run: colours told apart, and no half-written file."""

import os
import re

import numpy as np
import pytest

from dvgwm.runtime.display.report import Finished, write_report
from dvgwm.runtime.display.video import write_video
from dvgwm.runtime.files import write_atomic
from dvgwm.runtime.profiler import UNATTRIBUTED, Profiler, StageRow
from dvgwm.runtime.types import ArmEvent, Plan

STAGES = (
    "observe",
    "encode_text",
    "encode_low",
    "encode_high",
    "preview",
    "bridge",
    "refine",
    "decode",
    "act",
    "motion",
)


def page(tmp_path, shares):
    rows = [StageRow(name, 1, share, share, share, 0.0) for name, share in shares.items()]
    frames = np.zeros((3, 32, 48, 3), np.uint8)
    video = write_video(tmp_path / "v", frames, 10)
    plan = Plan(frames, None, {}, "<i>put", 0)
    done = Finished("t", "o", {}, [plan], frames, frames, (), Profiler(), 0.5, 1.0, {})
    shown = {"warning": "a & b", "facts": {"bundle": "<b>"}, "video": video, "rows": rows, "result": {"x": "</pre>"}}
    write_report(tmp_path / "r.html", done, verdict="not comparable", **shown)
    return (tmp_path / "r.html").read_text()


def test_every_stage_and_the_rest_have_a_colour_of_their_own(tmp_path):
    shares = dict.fromkeys((*STAGES, UNATTRIBUTED), 1 / 11)
    colours = re.findall(r'<i style="background:(#\w+)"></i>', page(tmp_path, shares))
    assert len(colours) == len(set(colours)) == 11


def test_a_name_stands_in_the_bar_only_where_it_fits(tmp_path):
    names = re.findall(r"<text [^>]*>(\w+)</text>", page(tmp_path, {"preview": 0.85, "refine": 0.08, "motion": 0.065}))
    assert names == ["preview", "refine"]


def test_the_papers_row_gives_its_time_and_its_work(tmp_path):
    assert "<td>88.7 s</td><td></td><td></td><td>7.17 PFLOP</td>" in page(tmp_path, {"preview": 1.0})


def test_it_is_one_page_that_asks_the_network_for_nothing_and_takes_nothing_for_markup(tmp_path):
    video = write_video(tmp_path / "v", np.zeros((3, 32, 48, 3), np.uint8), 10)
    plan = Plan(np.zeros((13, 32, 48, 3), np.uint8), None, {}, 'put "a" & <b>', 0)
    events = [ArmEvent("GATE_FAST", 1.0, "slow <down>")]
    done = Finished("dvgwm <b>", "solved", {}, [plan], plan.frames, plan.frames[:7], events, Profiler(), 0.5, 1.0, {})
    write_report(
        tmp_path / "r.html",
        done,
        warning="un<i>trained",
        facts={"task": "<script>alert(1)</script>"},
        video=video,
        rows=[StageRow("preview", 1, 0.1, 0.1, 0.1, 2e9), StageRow(UNATTRIBUTED, 1, 0.9, 0.9, 0.9, 0.0)],
        verdict="not comparable",
        result={"x": "</pre>"},
    )
    page = (tmp_path / "r.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "http" not in page
    assert "<script" not in page
    assert "88.7 s" in page
    for part in ("preview", "unattributed", "cold start", "GATE_FAST", "un&lt;i&gt;trained", "data:image/png", "data:"):
        assert part in page
    assert page.count("</pre>") == 1
    assert "&lt;script&gt;" in page


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"old"
