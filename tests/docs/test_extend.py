"""The walk-throughs are run as they stand: files written, Python and shell blocks executed, in the order of the page."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

pytestmark = [pytest.mark.torch, pytest.mark.ort, pytest.mark.slow]
PAGE = (Path(__file__).parents[2] / "docs" / "extend.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


def run(section, folder, installed):
    """Return the first command of ``section`` that failed, None if all of them ran."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    for language, text in re.findall(r"```(\w+)\n(.*?)```", section, re.S):
        if named := re.match(r"# file: (\S+)\n", text):
            (folder / named[1]).write_text(text)
            continue
        commands = [[sys.executable, "-c", text]] if language == "python" else map(str.split, text.splitlines())
        for command in commands:
            if command[:2] == ["pip", "install"]:
                installed(folder)
                continue
            command[0] = shutil.which(command[0]) or command[0]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
            if done.returncode:
                return done
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The one folder that a reader types all of it in."""
    return tmp_path_factory.mktemp("reader")


@pytest.mark.few(1)
@pytest.mark.parametrize("title", SECTIONS)
def test_a_walk_through_runs(title, folder, installed):
    assert "```" in SECTIONS[title]
    failed = run(SECTIONS[title], folder, installed)
    assert failed is None, failed.stdout + failed.stderr


def test_the_package_says_which_file_it_is():
    """Beside the other files of the page an installer would have to guess, and refuses."""
    settings = tomllib.loads(re.search(r"# file: pyproject.toml\n(.*?)```", PAGE, re.S)[1])
    assert settings["tool"]["setuptools"]["py-modules"] == ["grey_room"]
    assert settings["build-system"]["build-backend"] == "setuptools.build_meta"


def test_a_wrong_one_is_seen(tmp_path, installed):
    """Negative control: the page's own assertion, on a kernel that gives a third."""
    failed = run(SECTIONS["A kernel"].replace("(0.5 * x)", "(0.333 * x)"), tmp_path, installed)
    assert failed.stderr.splitlines()[-1] == "AssertionError"
