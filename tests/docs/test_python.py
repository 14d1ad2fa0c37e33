"""The page for programs, run as it stands: its blocks one after the other, in an empty folder with one picture."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python.md"


def test_the_page_does_as_it_says(tmp_path):
    for library in ("onnxruntime", "mujoco"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    if not (ROOT / "runtime/bundles/a1_tiny/manifest.json").is_file():
        pytest.skip("no trained bundle ships with this version")
    Image.fromarray(np.full((240, 320, 3), 160, np.uint8)).save(tmp_path / "scene.png")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 3
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    shape, first, outcome, video = done.stdout.splitlines()
    assert shape == "(49, 128, 192, 3) uint8"
    assert first.startswith("{'x': ")
    assert first.endswith(" at 0.1 s")
    assert re.fullmatch(r"(not )?solved at \d+\.\d s of the arm's clock", outcome)
    assert (tmp_path / video).is_file()
