"""The ahead-of-time build with the oldest Triton that is supported: what a machine may have that others set up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")

pytestmark = [pytest.mark.torch, pytest.mark.triton36]


def test_what_is_said_of_the_cubins_holds(tmp_path):
    """Triton 3.6 in a folder of its own before this environment's, and the tests of the build with it."""
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(tmp_path / "site"),
        "triton==3.6.*",
    ]
    done = subprocess.run(install, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"Triton 3.6 cannot be installed here: {done.stderr.strip()[-200:]}")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(tmp_path / "site"), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    words = ["-q", "-n0", "-rs", "-p", "no:cacheprovider", str(Path(__file__).with_name("test_aot.py"))]
    tests = [sys.executable, "-m", "pytest", *words]
    done = subprocess.run(tests, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "Triton 3.6." in done.stdout
    passed, skipped = map(int, re.search(r"(\d+) passed, (\d+) skipped", done.stdout).groups())
    assert passed >= 20
    assert skipped == 3, "what it lacks is told, and no more than that is skipped"
