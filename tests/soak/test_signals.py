"""Signals at any moment from the first instruction to the last: the command ends at once, tells it, and leaves nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

COMMAND = [sys.executable, "-c", "from dvgwm.runtime.cli import main; main()"]
WORDS = ["--plan-only", "--camera", "scene.png", "--instruction", "put the banana into the bowl", "--out", "run"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGQUIT: 131}
LONGEST_S = 2.0
LONGEST_BESIDE_OTHERS_S = 10.0
"""In the test suite every core has work of its own."""
OVER = "it was over"
FIRST_S = 0.03
FIRST_BESIDE_OTHERS_S = 0.3
"""Before that it is Python itself that starts: it has a handler for Ctrl-C already, and not yet a line of ours."""


def started(folder):
    return subprocess.Popen(
        [*COMMAND, *WORDS],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
        # A test run in a shell's background inherits an ignored SIGINT.
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in CODES],
    )


def scene(folder):
    folder.mkdir()
    Image.fromarray(np.full((48, 64, 3), 99, np.uint8)).save(folder / "scene.png")
    return folder


def stopped(folder, number, after_s, longest_s):
    """Return what is wrong with how a command ends that gets the signal ``number`` after so many seconds, None if nothing."""
    child = started(scene(folder))
    time.sleep(after_s)
    if child.poll() is not None:
        child.communicate()
        return OVER
    told_at = time.monotonic()
    child.send_signal(number)
    with child:
        _, stderr = child.communicate(timeout=60)
    took_s = time.monotonic() - told_at
    left = {path.name for path in folder.iterdir()} - {"scene.png", "cache"}
    if left == {"run"} and (folder / "run" / "run.json").exists():
        left = set()  # it came when the run had its name: it is whole, and stays
        if child.returncode == 0:
            return None
    # Before Python is there the system itself ends the process, which a shell tells with the same code.
    code = child.returncode if child.returncode >= 0 else 128 - child.returncode
    wrong = [f"exit {code}"] * (code != CODES[number]) + [f"{took_s:.1f} s"] * (took_s > longest_s)
    wrong += [f"left {left}"] * bool(left) + [stderr] * ("Traceback" in stderr or len(stderr.splitlines()) > 1)
    return f"{signal.Signals(number).name} after {after_s:.3f} s: {'; '.join(wrong)}" if wrong else None


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.ort
def test_signals_spread_over_start_up_and_planning_end_it_and_leave_nothing(tmp_path, soak):
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    begun = time.monotonic()
    with started(scene(tmp_path / "whole")) as child:
        _, stderr = child.communicate(timeout=120)
    assert child.returncode == 0, stderr
    whole_s = time.monotonic() - begun
    longest_s = LONGEST_S if soak.all else LONGEST_BESIDE_OTHERS_S
    first_s = FIRST_S if soak.all else FIRST_BESIDE_OTHERS_S
    rng, count = random.Random(soak.seed), 200 if soak.all else 40
    draws = [
        (tmp_path / str(k), rng.choice(list(CODES)), rng.uniform(first_s, whole_s), longest_s) for k in range(count)
    ]
    with ThreadPoolExecutor(2) as pool:
        wrong = [told for told in pool.map(lambda draw: stopped(*draw), draws) if told is not None]
    assert wrong.count(OVER) < count * 3 // 4
    assert [told for told in wrong if told != OVER] == []
