"""The benchmark that needs a GPU, tried without one: its code runs, its rows are whole, and it goes on where it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

pytestmark = [pytest.mark.torch, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def run(*words):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu"), *words]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    out = tmp_path_factory.mktemp("trial") / "rows.jsonl"
    words = ["--device", "cpu", "--preset", "test_tiny", "--rounds", "1", "--out", str(out)]
    words += ["--parts", "ceilings", "attention", "kernels", "preview"]
    return out, words, run(*words)


def test_every_row_says_what_it_is(trial):
    out, _, done = trial
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["part"] for row in rows} == {"ceilings", "attention", "kernels", "preview"}
    for row in rows:
        assert {"commit", "source", "gpu", "torch"} <= row.keys()
        if row["part"] not in ("ceilings",) and row["name"] != "done":
            assert row["loss"] in ("lossless", "bounded", "lossy")
    forward = {row["variant"]: row for row in rows if row["name"] == "preview forward"}
    assert {"diffusers eager", "bfloat16", "fp8_8bit"} <= forward.keys()
    assert all(row["relative_l2"] < 0.1 for row in forward.values())
    assert all(row["kernels"] for row in forward.values())


def test_what_is_recorded_is_not_measured_again(trial):
    out, words, _ = trial
    before = out.read_text()
    done = run(*words)
    assert done.returncode == 0
    assert done.stdout.count("already") == 4
    assert out.read_text() == before
    assert out.with_suffix(".png").is_file() or "matplotlib" in done.stdout


def test_without_a_gpu_it_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = run()
    assert done.returncode == 2
    assert done.stderr.startswith("E2 BENCH_GPU")
