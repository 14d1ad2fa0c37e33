"""The benchmark that decides: everything that needs a GPU, most important first, each part in a process of its own.

    python benchmarks/gpu                      # all parts, those already recorded for this code and GPU left out
    python benchmarks/gpu --parts preview      # some of them
    python benchmarks/gpu --device cpu --preset test_tiny --rounds 1 --out /tmp/trial.jsonl    # the code, not the figures

Rows go to benchmarks/results/gpu.jsonl, the plot beside it. Networks have seeded random weights: figures are times, memory
and distances between variants, never quality.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "gpu.jsonl"
PARTS = ("ceilings", "attention", "preview", "decode", "refine", "plan", "kernels", "one_stage", "package")
LIMIT_S = 600


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(
        prog="python benchmarks/gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    made.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the code where there is no GPU"
    )
    made.add_argument("--preset", default="dvgwm_5b", help="size of the networks (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=10, help="timed runs of each variant (default: %(default)s)")
    made.add_argument("--out", type=Path, default=RESULTS, help="where rows are appended (default: %(default)s)")
    made.add_argument("--deadline", type=float, default=3600, help="seconds for all of them (default: %(default)s)")
    made.add_argument("--again", action="store_true", help="measure parts that are recorded already, too")
    made.add_argument("--one", help=argparse.SUPPRESS)
    return made


def main() -> int:
    """Run the parts and return how many failed."""
    options = parser().parse_args()
    try:
        import torch
        from measure import Bench, facts
    except ImportError as error:
        print(f"E2 BENCH_MISSING wanted torch and dvgwm ({error}); `make gpu` sets the path", file=sys.stderr)
        return 2
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "E2 BENCH_GPU wanted a CUDA GPU, found none; --device cpu --preset test_tiny tries the code",
            file=sys.stderr,
        )
        return 2
    here = facts(options.device)
    if options.one:
        part(Bench(options.one, options.device, options.preset, options.rounds, options.out, here))
        return 0
    failed, end = [], time.monotonic() + options.deadline
    for name in options.parts:
        if not options.again and recorded(options.out, name, here):
            print(f"== {name}: recorded for this code and GPU already (--again measures it anew)", flush=True)
            continue
        print(f"== {name}", flush=True)
        if not finished(name, options, min(LIMIT_S, end - time.monotonic())):
            failed.append(name)
    if options.out.is_file():
        from plot import draw

        print(f"plot: {draw(options.out)}")
    print(
        f"{len(options.parts) - len(failed)} of {len(options.parts)} parts done"
        + (f", failed: {failed}" if failed else "")
    )
    return 1 if failed else 0


def recorded(file: Path, name: str, here: dict[str, object]) -> bool:
    """Return whether ``name`` was measured to its end on this GPU with this code."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    wanted = (name, "done", here["source"], here["gpu"])
    return any((row["part"], row["name"], row["source"], row["gpu"]) == wanted for row in rows)


def finished(name: str, options: argparse.Namespace, limit_s: float) -> bool:
    """Run one part in a process of its own and return whether it came to its end in time."""
    if limit_s <= 0:
        print(f"{name}: no time is left for it", flush=True)
        return False
    command = [sys.executable, str(HERE), "--one", name, "--device", options.device, "--preset", options.preset]
    command += ["--rounds", str(options.rounds), "--out", str(options.out)]
    try:
        return subprocess.run(command, timeout=limit_s, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"{name}: stopped after {limit_s:.0f} s; its rows so far are kept", flush=True)
        return False


def part(bench: object) -> None:
    """Measure one part and record that it is done."""
    # One module each: what a part does not need may be missing.
    module = {"ceilings": "kernel_parts", "attention": "attention_parts", "kernels": "kernel_parts", "decode": "plan_parts",
              "plan": "plan_parts", "package": "plan_parts"}.get(bench.part, "denoiser_parts")  # fmt: skip
    started = time.perf_counter()
    getattr(importlib.import_module(module), f"run_{bench.part}")(bench)
    bench.row("done", wall_s=time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
