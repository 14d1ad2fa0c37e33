"""README typed as it stands, in a clean clone and a fresh environment: every command that a CPU can do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
MORE = [line.strip() for line in README.partition("## What else it does")[2].partition("\n## ")[0].splitlines()]
COMMANDS = [line.partition("  #")[0].strip() for line in MORE if line.startswith(("dvgwm-", "python ", "pytest "))]
ELSEWHERE = {
    "dvgwm-runtime compile": "TensorRT and a GPU",
    "--backend tensorrt": "TensorRT and a GPU",
    "--preset dvgwm_5b": "26 GB, or a lab's checkpoint",
    "pytest benchmarks/": "an hour; `make check` and the benchmarks' own tests run its parts",
}
"""What these want, that a typist on a CPU has not."""
ENDS = {"--arm localhost:11311": 20}
"""Exit codes of commands that look for something which is not there: here the camera is missed first."""


def typed(words, folder, environment, timeout_s=1500):
    return subprocess.run(
        ["bash", "-c", words], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s
    )


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """A clone with what the page speaks of, and an environment in which its first block was typed."""
    clone, venv = tmp_path_factory.mktemp("typed") / "dvgwm", tmp_path_factory.mktemp("venv") / "venv"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True, timeout=120)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=120)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "TRITON"))}
    environment = kept | {"PATH": f"{venv}/bin{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(venv)}
    done = typed(BLOCKS[0], clone, environment)
    assert done.returncode == 0, done.stderr
    assert (clone / "runs/0001/report.html").is_file()
    return clone, environment


@pytest.mark.longest
def test_every_command_ends_as_the_page_says(newcomer):
    clone, environment = newcomer
    done = typed("pip install -q -e '.[dev]'", clone, environment)
    assert done.returncode == 0, done.stderr
    from dvgwm.runtime.display.video import write_video

    write_video(clone / "clip", np.random.default_rng(0).integers(0, 256, (40, 120, 160, 3), np.uint8), 10)
    (clone / "bench.toml").write_text("[joints.joint_1]\nvelocity = 0.5\n")
    (clone / "lab.toml").write_text('robot = "galaxea_a1"\nmax-actions = 48\n')
    shutil.copytree(clone / "runtime/bundles/a1_tiny", clone / "runs/a1_tiny/weights")
    assert len(COMMANDS) > 20
    failed = {}
    for command in COMMANDS:
        if any(part in command for part in ELSEWHERE):
            continue
        done = typed(command, clone, environment)
        wanted = next((code for part, code in ENDS.items() if part in command), 0)
        if done.returncode != wanted:
            failed[command] = done.returncode, (done.stderr or done.stdout)[-400:]
    assert not failed


def test_every_command_is_typed_or_has_a_reason():
    """The page's own commands: a line that is no command of ours, or a reason that no line has any more, is seen."""
    lines = [line for line in MORE if line.startswith(("dvgwm-", "python ", "pytest "))]
    assert len(lines) == len(COMMANDS) > 20
    for part in (*ELSEWHERE, *ENDS):
        assert any(part in command for command in COMMANDS), part
