"""`--memory` as a user gives it: said beforehand stage by stage, done where a plan is made, refused where nothing fits."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from PIL import Image

from dvgwm.runtime.config.plugins import shipped

pytestmark = pytest.mark.ort
RUN = "from dvgwm.runtime.cli import main; main()"
LOADS = """
import atexit, sys
from dvgwm.runtime.backends import watched
loaded, load = [], watched.load_engine
def counted(backend, path, spec):
    loaded.append(spec.file)
    return load(backend, path, spec)
watched.load_engine = counted
atexit.register(lambda: print("loaded", *loaded, file=sys.stderr))
"""


def run(*arguments, cwd, code=RUN):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=120,
        env=os.environ | {"XDG_CACHE_HOME": str(cwd / "cache")},
    )


def test_inspect_says_what_each_stage_takes_and_what_has_to_go(tmp_path):
    done = run("inspect", shipped("a1_tiny"), "--memory", 0.2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert set(facts["evicted"]) >= {"text_encoder.onnx", "refine.onnx"}
    assert set(facts["peak_bytes"]) == set(facts["stages"])
    assert max(facts["peak_bytes"].values()) <= 0.2e9
    assert "in 200 MB for onnx on the host" in done.stdout
    assert "MB are left at the peak, stage" in done.stdout
    more = json.loads(run("inspect", shipped("a1_tiny"), "--memory", 8, "--gpu", cwd=tmp_path).stdout.splitlines()[-1])
    assert more["evicted"] == []
    assert min(more["peak_bytes"].values()) > 1.5e9


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--memory", 0.05], 30, "E30 MEMORY_PLAN a1_tiny wants 1"),
        (["--gpu"], 2, "E2 USAGE --gpu goes with --memory"),
        (["--memory", "nan"], 2, "E2 USAGE"),
        (["--memory", -1], 2, "E2 USAGE"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, options, code, said):
    done = run("inspect", shipped("a1_tiny"), *options, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith(said), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_plan_in_little_memory_loads_engines_for_their_stage_and_is_the_same(tmp_path):
    image = tmp_path / "scene.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)).save(image)
    line = ["--plan-only", "--camera", image, "--instruction", "push the cube", "--threads", 1]
    plain = run(*line, "--out", "plain", cwd=tmp_path, code=LOADS + RUN)
    little = run(*line, "--memory", 0.16, "--out", "little", cwd=tmp_path, code=LOADS + RUN)
    assert plain.returncode == little.returncode == 0, little.stderr
    loads = [done.stderr.splitlines()[-1].split()[1:] for done in (plain, little)]
    assert len(loads[0]) == len(set(loads[0])) == 9
    assert loads[1].count("refine.onnx") == 2, "to be warmed up, and for its stage"
    assert loads[1].count("encode_low.onnx") == 1
    videos = [(tmp_path / name / "plan.mp4").read_bytes() for name in ("plain", "little")]
    assert videos[0] == videos[1]
    refused = run(*line, "--memory", 0.05, "--out", "refused", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.split()[:2]) == (30, ["E30", "MEMORY_PLAN"])
