"""The bundle that ships: whole, trained, small enough, told about on its card, and run by the first command without torch."""

import json
import subprocess
import sys

import pytest

from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.config.plugins import DEFAULT_BUNDLE, shipped

FOLDER = shipped(DEFAULT_BUNDLE)
LARGEST_BYTES = 24_000_000

NO_TORCH = """
import sys
sys.modules["torch"] = None
from dvgwm.runtime.cli import main
main()
"""


def test_it_is_verified_trained_and_small():
    bundle = read_bundle(FOLDER)
    assert bundle.manifest.model.trained
    assert bundle.manifest.model.preset == DEFAULT_BUNDLE
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= LARGEST_BYTES


def test_its_card_says_what_it_was_made_of_and_what_it_cannot_do():
    card = FOLDER.with_suffix(".md").read_text("utf-8")
    for heading in ("## Data", "## Training", "## Results", "## Limits"):
        assert heading in card


@pytest.mark.ort
@pytest.mark.sim
def test_what_it_imagines_moves_the_arm_on_purpose_and_a_still_picture_does_not():
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    pytest.importorskip("mujoco", reason="the sim extra is not installed")
    from click.testing import CliRunner

    from dvgwm.runtime.cli import cli

    def told(*more):
        line = ["evaluate", "--episodes", "10", "--seed", "910000", "--plan-time", "0", "--json", *more]
        return json.loads(CliRunner().invoke(cli, line, catch_exceptions=False).output.splitlines()[-1])

    acted = told()
    assert acted["success_rate"] >= 0.4
    assert acted["object_accuracy"] >= 0.5
    assert told("--control", "frozen")["success_rate"] == 0.0


@pytest.mark.ort
@pytest.mark.sim
def test_the_first_command_plays_an_episode_without_torch(tmp_path):
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    pytest.importorskip("mujoco", reason="the sim extra is not installed")
    words = ["--robot", "galaxea_a1", "--out", str(tmp_path / "run"), "--gif", str(tmp_path / "episode.gif")]
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, *words], capture_output=True, text=True, cwd=tmp_path, timeout=200
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["trained"]
    assert told["plans"] >= 1
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "episode.gif").read_bytes()[:3] == b"GIF"
