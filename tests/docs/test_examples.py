"""The example package as a stranger would use it: its own test, and the commands that find it by its entry point."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "desk_arm"


@pytest.fixture
def package(tmp_path, installed):
    """The package, installed: where it is, and the environment that finds it."""
    folder = tmp_path / "desk_arm"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    installed(folder)
    return folder, os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_its_own_test_passes(package):
    folder, environment = package
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_the_doctor_knows_it(package):
    folder, environment = package
    command = [sys.executable, "-c", "from dvgwm.runtime.cli import main; main()"]
    command += ["doctor", "--robot", "desk_arm", "--arm", "127.0.0.1:9"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 40
    assert "no desk arm at 127.0.0.1:9" in done.stderr
    found = {check["what"]: check["fine"] for check in json.loads(done.stdout.splitlines()[-1])["checks"]}
    assert found["limits"]
    assert not found["robot"]


def test_the_driver_is_as_long_as_is_said():
    text = (EXAMPLE / "desk_arm.py").read_text()
    body = text.partition("class DeskArm:")[2].partition("\n\n\n")[0]
    assert len(body.splitlines()) <= 60
