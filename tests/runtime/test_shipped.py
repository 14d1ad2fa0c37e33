"""The bundle in the package: sound, small, trained, and without torch it moves the arm on purpose."""

import json
import os
import subprocess
import sys

import pytest

from dvgwm.runtime.bundle import MANIFEST, read_bundle
from dvgwm.runtime.plugins import DEFAULT_BUNDLE, shipped

BUNDLE = shipped(DEFAULT_BUNDLE)
# Torch and its company are as good as not installed.
WITHOUT_TORCH = """
import sys
for name in ("torch", "diffusers", "transformers", "accelerate"):
    sys.modules[name] = None
from dvgwm.runtime.cli import main
main()
"""


def run(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=280,
        env=os.environ | {"XDG_CACHE_HOME": str(cwd / "cache")},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_is_verified_small_and_trained():
    manifest = read_bundle(BUNDLE, "onnx").manifest
    assert manifest.model.trained
    size = sum(record.size for record in manifest.files.values()) + (BUNDLE / MANIFEST).stat().st_size
    assert size <= 24e6
    assert all(parity.max_abs <= parity.tolerance for parity in manifest.parity.values())
    card = BUNDLE.with_name(f"{BUNDLE.name}.md").read_text("utf-8")
    for part in ("Data", "Training", "Results", "Limits"):
        assert f"## {part}" in card


@pytest.mark.ort
@pytest.mark.sim
def test_the_first_command_uses_it_without_torch(tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    facts = run("--robot", "galaxea_a1", "--max-actions", 4, "--out", "run", cwd=tmp_path)
    assert (facts["preset"], facts["backend"], facts["trained"]) == ("a1_tiny", "onnx", True)
    assert facts["actions"] == 4
    assert facts["paper"].startswith("not comparable")
