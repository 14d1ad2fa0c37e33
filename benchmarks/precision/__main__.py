"""What each precision does to the trained `a1_tiny`: size, parity, pictures, actions, success. It needs no GPU.

    python benchmarks/precision                        # all of them; what is recorded for this code is left out
    python benchmarks/precision --precisions int8 fp8  # some of them
    python benchmarks/precision --page                 # the page alone, from what is recorded

Rows go to benchmarks/results/precision.jsonl; docs/precision.md and its picture are made of them. A bundle that was built
before is taken as it is, so that a stopped run goes on; with two cores it takes an hour and a half.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "precision.jsonl"
WORK = ROOT / "build" / "precision"
PRECISIONS = ("float32", "float16", "bfloat16", "int8_weights", "int8", "fp8")
TORCH = ("bfloat16",)
"""ONNX Runtime has no bfloat16 convolution on a CPU: that one is torch's own, compiled."""
CALIBRATED = ("int8", "fp8")
SEED = 960000


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(
        prog="python benchmarks/precision", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, metavar="NAME")
    made.add_argument("--episodes", type=int, default=100, help="in closed loop (default: %(default)s)")
    made.add_argument("--scenes", type=int, default=40, help="that actions are compared in (default: %(default)s)")
    made.add_argument("--out", type=Path, default=RESULTS, help="where rows are appended (default: %(default)s)")
    made.add_argument("--deadline", type=float, default=7200, help="seconds after which none is begun")
    made.add_argument("--page", action="store_true", help="write the page from the recorded rows, and measure nothing")
    return made


def main() -> int:
    """Measure what is not recorded yet, write the page, and return 0."""
    options = parser().parse_args()
    from measure import closed_loop, code, fidelity, sizes
    from page import newest, write

    started, here = time.monotonic(), code()
    for name in () if options.page else options.precisions:
        done = newest(options.out).get(name, {})
        if done.get("code") == here and done.get("episodes") == options.episodes:
            print(f"{name}: recorded", flush=True)
            continue
        if time.monotonic() - started > options.deadline:
            print(f"{name}: left for the next run, {options.deadline:.0f} s are over", flush=True)
            continue
        bundle = build(name, here)
        print(f"{time.monotonic() - started:6.0f} s {name}: {options.scenes} scenes", flush=True)
        row = {"precision": name, "code": here} | sizes(name, bundle, build("float32", here))
        row |= fidelity(bundle, build("float32", here), options.scenes)
        print(f"{time.monotonic() - started:6.0f} s {name}: {options.episodes} episodes", flush=True)
        row |= closed_loop(bundle, options.episodes, SEED)
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    print(write(options.out, ROOT / "docs" / "precision.md"))
    return 0


def build(name: str, here: str) -> Path:
    """Return the bundle in a precision, built by the command that a user would give."""
    out = WORK / here / name
    if not (out / "manifest.json").is_file():
        command = [
            sys.executable,
            "export/build_engines.py",
            "--precision",
            name,
            "--out",
            str(out),
            "--steps",
            "verify",
        ]
        command += ["--backend", "torch"] if name in TORCH else []
        command += ["--calibrate", str(recording())] if name in CALIBRATED else []
        print(" ".join(command[1:]), flush=True)
        subprocess.run(command, cwd=ROOT, check=True, timeout=1800, stdout=subprocess.DEVNULL)
    return out


def recording() -> Path:
    """Return a recorded data set: 25 demonstrations on layouts that nothing else here uses."""
    out = WORK / "recording"
    command = [sys.executable, "-m", "dvgwm.training", "data", "--episodes", "25", "--seed", "5000", "--out", str(out)]
    if not (out / "meta" / "info.json").is_file():
        subprocess.run(command, cwd=ROOT, check=True, timeout=600, stdout=subprocess.DEVNULL)
    return out


if __name__ == "__main__":
    sys.exit(main())
