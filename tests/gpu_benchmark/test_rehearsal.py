"""Every part at test_tiny on the CPU, from nothing to the last page: the code of a GPU's hour, not its figures."""

import json
import math
import os
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

from benchmarks.gpu.code import ROOT
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.setting import OURS

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.thorough, pytest.mark.longest]
A_GPUS = {"gpu", "working_bytes", "held_bytes", "reserved_bytes"}
"""What is known of a GPU alone."""
FORMS = {
    "preview forward": {"diffusers eager", "diffusers compile", *OURS},
    "refine forward": {"diffusers eager", "diffusers compile", *OURS},
    "one stage forward": {"diffusers eager", "diffusers compile", "bfloat16_kernel", "fp8_kernel"},
    "decode": {"diffusers eager", "bfloat16", "bfloat16, early exit", "bfloat16, cuDNN's search"},
    "engine": {
        "preview", "refine", "decode_first", "decode_next", "encode_low", "encode_high", "frame_encoder", "policy",
        "modulate_preview", "modulate_refine",
    },
    "plan stage": {"encode_text", "encode_low", "encode_high", "preview", "bridge", "refine", "decode", "act"},
    "modulate fp8": {"eager", "compile", "kernel"},
    "attention small": {"flash", "kernel", "8bit", "fp8"},
}  # fmt: skip


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    out = tmp_path_factory.mktemp("rehearsal") / "rows.jsonl"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--device",
        "cpu",
        "--preset",
        "test_tiny",
        "--rounds",
        "1",
        "--out",
        str(out),
        "--deadline",
        "1500",
    ]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1600)
    print(f"the rehearsal took {time.monotonic() - began:.0f} s")
    return [json.loads(line) for line in out.read_text().splitlines()], done


def test_every_part_comes_to_its_end_and_every_field_is_filled(rehearsal):
    rows, done = rehearsal
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["part"] for row in rows if row["name"] == "done"} == set(PARTS)
    for row in rows:
        assert "refused" not in row, row
        empty = {
            name for name, value in row.items() if value is None or (isinstance(value, float) and math.isnan(value))
        }
        assert empty <= A_GPUS | ({"against_paper"} if row["name"] == "plan" else set()), row
        assert {"key", "commit", "torch", "triton", "preset"} <= row.keys()
        if row["part"] != "ceilings" and row["name"] != "done":
            assert row["loss"] in ("lossless", "bounded")


def test_every_variant_has_its_row(rehearsal):
    rows, _ = rehearsal
    for name, variants in FORMS.items():
        assert {row["variant"] for row in rows if row["name"] == name} == variants, name


def test_what_is_compared_is_near(rehearsal):
    rows, _ = rehearsal
    assert all(row["relative_l2"] < 0.1 for row in rows if "relative_l2" in row)
    assert all(row["psnr_db"] > 40 for row in rows if "psnr_db" in row)
    assert all(row["early_exit_exact"] for row in rows if "early_exit_exact" in row)


def test_the_products_stages_are_its_plan(rehearsal):
    rows, _ = rehearsal
    plan = next(row for row in rows if row["name"] == "plan")
    stages = sum(row["median_s"] for row in rows if row["name"] == "plan stage")
    assert 0.8 * plan["median_s"] < stages < 1.2 * plan["median_s"]
    assert plan["uncaptured"] == {}


def test_the_last_page_is_whole(rehearsal):
    _, done = rehearsal
    for line in ("| diffusers compile |", "| fp8_fp8 |", "from a bundle in", "Use on this card: `python export"):
        assert line in done.stdout
    assert "Did not run" not in done.stdout
