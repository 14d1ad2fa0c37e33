"""The benchmark that decides, tried without a GPU: in processes of its own, into which a test can reach."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
TRIAL = ("--device", "cpu", "--preset", "test_tiny", "--rounds", "1")


@pytest.fixture
def meddle(tmp_path):
    """Write what every process of the benchmark runs first, and return the environment that has it do so."""

    def write(code: str = "", **variables: str) -> dict[str, str]:
        folder = tmp_path / "meddling"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(textwrap.dedent(code))
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        paths = [str(folder), *filter(None, [environment.get("PYTHONPATH")])]
        return environment | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"} | variables

    return write


@pytest.fixture
def begin():
    """Begin the benchmark and return its process; what is left of it is killed after the test."""
    begun = []

    def start(*words: str, env: dict[str, str], trial: bool = True) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "benchmarks.gpu", *(TRIAL if trial else ()), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        begun.append(subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, **pipes))
        return begun[-1]

    yield start
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def run(begin, meddle):
    """Run the benchmark to its end and return its exit code and all that it said."""

    def to_its_end(*words: str, env: dict[str, str] | None = None, trial: bool = True) -> tuple[int, str]:
        process = begin(*words, env=env or meddle(), trial=trial)
        said, _ = process.communicate(timeout=400)
        return process.returncode, said

    return to_its_end
