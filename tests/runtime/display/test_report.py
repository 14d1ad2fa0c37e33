"""The page of a run: colours told apart, and no half-written file."""

import json
import os
import re

import numpy as np
import pytest

from dvgwm.runtime.bundle.manifest import ActionContract
from dvgwm.runtime.display.actions import PlannedActions
from dvgwm.runtime.display.report import PALETTE, REST, Finished, contrast, write_report
from dvgwm.runtime.display.video import write_video
from dvgwm.runtime.files import write_atomic
from dvgwm.runtime.profiler import UNATTRIBUTED, Profiler, StageRow
from dvgwm.runtime.types import ActionChunk, ArmEvent, Plan, PlannedJoints

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


def page(tmp_path, shares, **more):
    rows = [StageRow(name, 1, share, share, share, 0.0) for name, share in shares.items()]
    frames = np.zeros((3, 32, 48, 3), np.uint8)
    video = write_video(tmp_path / "v", frames, 10)
    plan = Plan(frames, None, {}, "<i>put", 0)
    done = Finished("t", "o", {}, [plan], frames, frames, (), Profiler(), 0.5, 1.0, {}, **more)
    shown = {"warning": "a & b", "facts": {"bundle": "<b>"}, "video": video, "rows": rows, "result": {"x": "</pre>"}}
    write_report(tmp_path / "r.html", done, verdict="not comparable", **shown)
    return (tmp_path / "r.html").read_text()


def test_every_stage_and_the_rest_have_a_colour_of_their_own(tmp_path):
    shares = dict.fromkeys((*STAGES, UNATTRIBUTED), 1 / 11)
    colours = re.findall(r'<i style="background:(#\w+)"></i>', page(tmp_path, shares))
    assert len(colours) == len(set(colours)) == 11


def test_a_name_stands_in_the_bar_only_where_it_fits(tmp_path):
    names = re.findall(
        r"<span style=[^>]*>(\w+)</span>", page(tmp_path, {"preview": 0.85, "refine": 0.08, "motion": 0.065})
    )
    assert names == ["preview", "refine"]


def test_texts_stand_out_from_what_is_behind_them_in_both_themes(tmp_path):
    text = page(tmp_path, dict.fromkeys((*STAGES, UNATTRIBUTED), 1 / 11))
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", part)) for part in re.findall(r":root \{[^}]*\}", text))
    for theme in (light, light | dark):
        colours = {
            name: f"#{''.join(2 * digit for digit in value[1:]) if len(value) == 4 else value[1:]}"
            for name, value in theme.items()
        }
        assert contrast(colours["ink"], colours["warn"]) >= 4.5
        assert min(contrast(colours[name], colours["paper"]) for name in ("ink", "soft")) >= 4.5
        assert min(contrast(colours[name], colours["paper"]) for name in ("commanded", "told")) >= 3, (
            "lines (WCAG 1.4.11)"
        )
    bars = re.findall(r"background: (#\w+); color: (#\w+)", text)
    assert len(bars) == 11
    assert min(contrast(*colours) for colours in bars) >= 4.5


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_stages_are_told_apart_by_all_who_look():
    """CIELAB distances, as seen with all cones and without the red or the green ones (Machado et al. 2009)."""
    deuteranopia = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    protanopia = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    rgb = np.array([[int(c[n : n + 2], 16) / 255 for n in (1, 3, 5)] for c in (*PALETTE, REST)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    for seen in (np.eye(3), np.array(deuteranopia), np.array(protanopia)):
        xyz = np.clip(linear @ seen.T, 0, 1) @ to_xyz.T / [0.9505, 1.0, 1.089]
        x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
        lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
        assert apart[~np.eye(len(lab), dtype=bool)].min() > 24


def test_actions_that_nobody_plays_are_drawn_and_counted(tmp_path):
    chunk = ActionChunk(np.array([[0.1, 0.0], [0.3, 1.0]]), np.array([0.1, 0.2]), "ee")
    contract = ActionContract("ee", ("x", "gripper"), ("m", "0..1"), (0.0, 0.0), (1.0, 1.0), 0.1)
    joints = PlannedJoints("arm", ("elbow", "gripper"), ((1.5, 0.0), (1.6, 1.0)), 1)
    planned = PlannedActions(chunk, contract, joints)
    assert planned.csv().decode().splitlines() == [
        "time_s,x [m],gripper [0..1],elbow [rad],gripper [0..1]",
        "0.1,0.1,0,1.5,0",
        "0.2,0.3,1,1.6,1",
    ]
    facts = planned.json()
    assert facts["units"] == ["m", "0..1"]
    assert facts["joints"]["out_of_reach"] == 1
    assert facts["times_s"] == [0.1, 0.2]
    assert json.loads(json.dumps(facts)) == facts
    text = page(tmp_path, {"preview": 1.0}, planned=planned, seen_as="recorded")
    assert "Imagined and recorded" in text
    assert "with the joints of arm, 1 poses out of its reach" in text
    assert "0.10 to 0.30 m<" in text
    assert " real" not in text


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
