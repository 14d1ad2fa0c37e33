"""A build that is killed anywhere goes on: nothing is made twice, nothing half-written is taken for whole."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from dvgwm.runtime.bundle.disk import MANIFEST, read_bundle

pytestmark = [pytest.mark.torch, pytest.mark.ort, pytest.mark.slow, pytest.mark.thorough]
POINTS = 6
DRIVER = """
import json, os, sys
from pathlib import Path

from dvgwm.export import products, stored
from dvgwm.export.assembly import build_bundle
from dvgwm.export.order import Order

stored.SHARD_BYTES = 100_000

def build(out, steps, kill, only):
    count = 0

    def hook(event, arguments):
        nonlocal count
        moves = event == "os.rename" or (event == "open" and isinstance(arguments[1], str) and "w" in arguments[1])
        if moves and out.name in str(arguments[0]):
            count += 1
            if kill == count:
                os.kill(os.getpid(), 9)

    def report(step, part, done, total):
        if step == kill and done == total // 2:
            os.kill(os.getpid(), 9)

    if only == "weights":
        products._graph_files = lambda *_: {}
    sys.addaudithook(hook)
    made = build_bundle(Order("test_tiny", "onnx", out, 0, tuple(steps), layers=1, frames=9), report)
    return {"made": made.made, "reused": made.reused, "events": count}

for line in sys.stdin:  # a process for each, that need not import everything anew
    reading, writing = os.pipe()
    if os.fork() == 0:
        out, *rest = json.loads(line)
        os.write(writing, json.dumps(build(Path(out), *rest)).encode())
        os._exit(0)
    os.close(writing)
    answer = os.fdopen(reading).read()
    print(json.dumps([os.waitstatus_to_exitcode(os.wait()[1]), answer]), flush=True)
"""


@pytest.fixture(scope="module")
def build():
    """Build in a process of its own, and return what it made; None where it was killed, as it had to be."""
    command = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:

        def run(out: Path, steps: str, kill: object = None, only: str = "all") -> dict[str, object] | None:
            driver.stdin.write(json.dumps([str(out), steps.split(","), kill, only]) + "\n")
            driver.stdin.flush()
            code, answer = json.loads(driver.stdout.readline())
            assert code == (-signal.SIGKILL if kill else 0)
            return None if kill else json.loads(answer)

        yield run
        driver.stdin.close()


def standing(workshop: Path) -> dict[str, tuple[int, int]]:
    """What is finished in a workshop, and which file it is."""
    receipts = workshop.glob("*.done")
    files = [workshop / receipt.name.removesuffix(".done") for receipt in receipts]
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files if file.exists()}


def test_streaming_goes_on_where_it_was_killed(build, tmp_path):
    whole = build(tmp_path / "whole", "export", only="weights")
    wanted = {
        file.name: hashlib.sha256(file.read_bytes()).digest()
        for file in (tmp_path / ".whole.build").glob("*.safetensors")
    }
    assert len(wanted) > 15, "shards"
    events = int(whole["events"])
    for point in range(1, POINTS + 1):
        out = tmp_path / f"killed{point}"
        workshop = out.with_name(f".{out.name}.build")
        build(out, "export", kill=1 + point * (events - 1) // (POINTS + 1), only="weights")
        before = standing(workshop)
        again = build(out, "export", only="weights")
        assert set(again["reused"]) == set(before) & set(wanted), point
        assert {name: standing(workshop)[name] for name in before} == before, point
        assert {
            file.name: hashlib.sha256(file.read_bytes()).digest() for file in workshop.glob("*.safetensors")
        } == wanted


def test_each_step_goes_on_where_it_was_killed(build, tmp_path):
    out, steps = tmp_path / "bundle", "export,build,verify,benchmark"
    workshop = out.with_name(f".{out.name}.build")
    finished: dict[str, tuple[int, int]] = {}
    for step in steps.split(","):
        build(out, steps, kill=step)
        assert standing(workshop).items() >= finished.items() or step == "benchmark", step
        assert (out / MANIFEST).is_file() == (step == "benchmark"), "a bundle is there once it is verified"
        finished = standing(workshop)
    inode = (out / MANIFEST).stat().st_ino
    last = build(out, steps)
    assert last["made"] == []
    assert (out / MANIFEST).stat().st_ino == inode
    assert read_bundle(out, "onnx").manifest.parity
    assert not workshop.exists()
