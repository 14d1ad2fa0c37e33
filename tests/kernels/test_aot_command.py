"""The command that compiles kernels tells what it lacks before it wants it."""

import subprocess
import sys

WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
sys.argv = ["aot", *sys.argv[1:]]
runpy.run_module("dvgwm.kernels.aot", run_name="__main__")
"""


def run(*words):
    command = [sys.executable, "-c", WITHOUT_TORCH, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_its_help_needs_no_torch():
    done = run("--help")
    assert done.returncode == 0, done.stderr
    assert "Compile every Triton kernel ahead of time" in done.stdout


def test_without_torch_it_says_so_in_one_line(tmp_path):
    done = run("--out", str(tmp_path / "out"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("E2 KERNELS_TRITON wanted Triton and torch")
