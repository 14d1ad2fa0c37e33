"""Odd command lines: each ends with a code that is told, one line, in time, and leaves nothing behind."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COUNT, ALL = 100, 300
LONGEST_S = 20.0
LARGEST_BYTES = 1 << 30
PYTHON = "from dvgwm.runtime.cli import main; main()"
MEASURED = """
import resource, subprocess, sys
code = subprocess.call([sys.executable, "-c", *sys.argv[2:]])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024))
sys.exit(code)
"""
"""Notes the memory of what it runs, which counts that of the process it comes from: this one is small."""
CODES = {0, 2, 10, 11, 12, 13, 20, 21, 30, 32, 50}
NUMBERS = [
    "0",
    "-1",
    "1",
    "3",
    "1e3",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "9" * 40,
    "0x10",
    "",
    " ",
    "1_0",
    "½",
    "٣",
    "1e-320",
]
TEXTS = [
    "",
    " ",
    "x",
    "a" * 300,
    "a" * 5000,
    "\x1b[31mred",
    "a\nb",
    b"\xff\xfe",
    "naïve 🙂",
    "../..",
    "~",
    "-",
    "--",
    "%s{}",
    "\u202e",
]
OPTIONS = [
    "--threads",
    "--steps",
    "--refine-steps",
    "--guidance",
    "--seed",
    "--at",
    "--execute",
    "--max-actions",
    "--plan-time",
]
WORDS = ["--sampler", "--backend", "--robot", "--task", "--instruction"]
PLACES = ["--bundle", "--camera", "--out", "--gif", "--cache-dir"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Things that paths may lead to."""
    folder = tmp_path_factory.mktemp("places")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "null.png").symlink_to("/dev/null")
    (folder / "zero.mp4").symlink_to("/dev/zero")
    (folder / "file").write_text("text")
    (folder / "empty.png").touch()
    (folder / "text.mp4").write_text("#EXTM3U\nhttp://127.0.0.1:9/x.ts\n")
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.tex").write_text("mine")
    (folder / "sealed").mkdir(mode=0)
    (folder / os.fsdecode(b"\xff.png")).touch()
    Image.new("1", (20_000, 20_000)).save(folder / "large.png")
    Image.new("1", (9_000, 9_000)).save(folder / "warned.png")
    return [
        *sorted(folder.iterdir()), folder / "new", folder / "file" / "inside", folder / ("n" * 300), folder / "sealed" / "new",
        ".", "..", "/", "", "/dev/null", "/dev/zero", "/dev/full", "/dev/full/x", "/proc/self/mem", "/proc/self/fd", "\0"[:0],
    ]  # fmt: skip


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def drawn(rng: random.Random, good: list, places: list) -> list:
    """Return a command line: a good one with one to three of its options, or others, spoiled."""
    words = list(good)
    for _ in range(rng.choice([1, 1, 2, 3])):
        how = rng.random()
        if how < 0.35:
            words += [rng.choice(OPTIONS), rng.choice([*NUMBERS, *TEXTS])]
        elif how < 0.5:
            words += [rng.choice(WORDS), rng.choice([*TEXTS, *NUMBERS])]
        elif how < 0.85:
            words += [rng.choice(PLACES), rng.choice(places)]
        elif how < 0.9:
            words.insert(rng.randrange(len(words)), rng.choice([*TEXTS, "--", "--live", "--help", "inspect", "doctor"]))
        elif words:
            words.pop(rng.randrange(len(words)))
    return words


def environment(rng: random.Random, home: Path) -> dict:
    odd = [
        {},
        {},
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"COLUMNS": "1"},
        {"HOME": ""},
    ]
    return os.environ | {"XDG_CACHE_HOME": str(home)} | rng.choice(odd)


@pytest.mark.slow
@pytest.mark.thorough
def test_no_command_line_crashes_hangs_or_is_told_in_more_than_a_line(make_bundle, places, tmp_path, soak):
    rng, bundle = random.Random(soak.seed), make_bundle().path
    Image.fromarray(np.full((48, 64, 3), 99, np.uint8)).save(tmp_path / "scene.png")
    home = tmp_path / "work"
    good = [
        "--backend",
        "fake",
        "--bundle",
        bundle,
        "--plan-only",
        "--camera",
        tmp_path / "scene.png",
        "--instruction",
        "stack",
    ]
    codes: Counter[int] = Counter()
    wrong, largest = [], 0
    for index in range(ALL if soak.all else COUNT):
        home.mkdir()
        words = drawn(rng, good, places)
        begun = time.monotonic()
        stdout = "/dev/full" if rng.random() < 0.1 else tmp_path / "stdout"
        with open(stdout, "wb") as out, open(tmp_path / "stderr", "wb") as err:
            child = subprocess.Popen(
                [sys.executable, "-c", MEASURED, tmp_path / "memory", PYTHON, *map(os.fsencode, words)],
                cwd=home, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment(rng, tmp_path / "cache"),
                start_new_session=True,
            )  # fmt: skip
            killer = None
            while child.poll() is None:
                time.sleep(0.01)
                if time.monotonic() - begun > LONGEST_S:
                    os.killpg(child.pid, signal.SIGKILL)
                    killer = True
        code, took_s = child.wait(), time.monotonic() - begun
        told = (tmp_path / "stderr").read_bytes().decode("utf-8", "replace")
        lines = told.splitlines()
        codes[code] += 1
        largest = max(largest, 0 if killer else int((tmp_path / "memory").read_text()))
        faults = [f"exit {code}"] * (code not in CODES) + [f"{took_s:.0f} s"] * bool(killer)
        faults += ["a traceback"] * ("Traceback" in told)
        if code:
            faults += ["no line"] * (len(lines) != 1 or not told.startswith(f"E{code} "))
            kept = "OUTPUT_PRINT" in told  # a run that was made, and only could not be shown
            faults += [f"left {listing(home)}"] * bool(listing(home) and not kept)
            faults += ["a line that is no text"] * any(len(line) > 2000 or not line.isprintable() for line in lines)
        elif stdout != "/dev/full" and "--help" not in map(str, words):
            faults += ["no JSON"] * (not json.loads((tmp_path / "stdout").read_text().splitlines()[-1]))
        if faults:
            wrong.append(f"{index}: {faults} {list(map(os.fsencode, words[6:]))} {told[-400:]}")
        shutil.rmtree(home)
        assert (places[0].parent / "mine" / "thesis.tex").read_text() == "mine"
    print(f"{dict(codes)}, largest {largest / 1e6:.0f} MB")
    assert not wrong, "\n".join(wrong)
    assert largest < LARGEST_BYTES
    assert codes[0] > 5
