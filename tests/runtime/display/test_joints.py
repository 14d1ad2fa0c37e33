"""What the joints did: every tick in a table, and a drawing whose lines are where the numbers say."""

import csv
import io

import numpy as np
import pytest

from dvgwm.runtime.display.joints import joints_csv, joints_drawing
from dvgwm.runtime.display.strips import HEIGHT, NARROWEST, WIDTH
from dvgwm.runtime.types import MotionRecord, Tick


def record(count=100, codes=None):
    """Two joints: one that goes from 0 to 1 and is measured half as far, one that rests at 2."""
    ticks = [
        Tick(5.0 + 0.02 * k, (k / (count - 1), 2.0), (0.5 * k / (count - 1), 2.0), (codes or {}).get(k))
        for k in range(count)
    ]
    return MotionRecord(("swing", "rest"), tuple(ticks))


def points(line):
    return np.array([[float(number) for number in pair.split(",")] for pair in line.split()])


def test_the_table_has_every_tick():
    rows = list(csv.DictReader(io.StringIO(joints_csv(record(100, {7: "MOTION_FAST"})).decode())))
    assert len(rows) == 100
    assert float(rows[99]["swing commanded [rad]"]) == 1.0
    assert float(rows[99]["swing measured [rad]"]) == 0.5
    assert float(rows[3]["time_s"]) == pytest.approx(5.06)
    assert [row["log_code"] for row in rows if row["log_code"]] == ["MOTION_FAST"]


def test_lines_lie_where_the_numbers_say():
    drawn = joints_drawing(record())
    swing, rest = drawn["strips"]
    commanded, measured = (points(swing["lines"][kind]) for kind in ("commanded", "measured"))
    assert commanded[0] == pytest.approx([0.0, HEIGHT])
    assert commanded[-1] == pytest.approx([WIDTH, 0.0])
    assert measured[-1] == pytest.approx([WIDTH, HEIGHT / 2])
    assert (swing["least"], swing["most"]) == (0.0, 1.0)
    assert points(rest["lines"]["measured"])[:, 1] == pytest.approx(HEIGHT / 2), "what rests looks so"
    assert min(NARROWEST.values()) > 0
    assert [strip["unit"] for strip in drawn["strips"]] == ["rad", "0..1"], "a gripper has no radians"


def test_a_long_motion_is_drawn_with_fewer_points():
    assert 500 < len(points(joints_drawing(record(1500))["strips"][0]["lines"]["measured"])) < 1200


def test_what_was_told_is_marked_once_for_as_long_as_it_stays():
    codes = {10: "MOTION_FAST", 50: "GATE_JUMP"} | dict.fromkeys(range(51, 100), "GATE_JUMP")
    marks = joints_drawing(record(100, codes))["marks"]
    assert [(mark["log_code"], round(mark["time_s"], 2)) for mark in marks] == [
        ("MOTION_FAST", 5.2),
        ("GATE_JUMP", 6.0),
    ]


@pytest.mark.parametrize("ticks", [(), (Tick(1.0, (0.0,), (0.0,), None),)])
def test_nothing_is_drawn_where_nothing_moved(ticks):
    assert joints_drawing(MotionRecord(("one",), ticks)) is None
    assert joints_csv(MotionRecord(("one",), ticks)).startswith(
        b"time_s,one commanded [0..1],one measured [0..1],log_code\n"
    )
