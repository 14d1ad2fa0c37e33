"""The benchmark that decides, on a lent machine or on a lab's own: what this card makes of the full-size system.

    python -m benchmarks.gpu                            # every part, in the order of its worth; goes on where it was
    python -m benchmarks.gpu --plan                     # the calls to make where each may take nine minutes, and what to bring
    python -m benchmarks.gpu --only preview decode      # some parts
    python -m benchmarks.gpu --out FILE --after FILE    # rows elsewhere, those of an earlier run taken over
    python -m benchmarks.gpu --device cpu --rounds 1 --out /tmp/trial.jsonl    # the code, not the figures

Run it in the project's folder; nothing has to be installed but the libraries that it names. Every row is written as soon as
it is measured, and measured again only where its code, the libraries or the machine changed. Networks have seeded random
weights: figures are times, memory and distances between variants, never quality. Its last page is beside the rows: a table
against the paper's 88.7 s, a plot, and the setting to use on this card.
"""

import argparse
import ctypes
import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from .code import ROOT
from .parts import PARTS
from .rows import DONE, Rows, key_of

RESULTS = ROOT / "benchmarks" / "results" / "gpu.jsonl"
PR_SET_PDEATHSIG = 1
LINKS = ROOT / "build" / "links"


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        epilog="parts:\n" + "\n".join(f"  {part.name:<10} {part.about}" for part in PARTS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--out", type=Path, default=RESULTS, help="where rows are appended (default: %(default)s)")
    made.add_argument(
        "--after", type=Path, metavar="FILE", help="rows of an earlier run, to go on from where --out is none"
    )
    made.add_argument(
        "--deadline", type=float, default=540, metavar="S", help="seconds for all of it (default: %(default)s)"
    )
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help="these parts")
    made.add_argument(
        "--plan", action="store_true", help="say which calls to make and what to bring, and measure nothing"
    )
    made.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the code where there is no GPU"
    )
    made.add_argument("--preset", help="size of the networks (default: dvgwm_5b on a GPU, test_tiny on a CPU)")
    made.add_argument("--rounds", type=int, default=10, help="timed runs of each variant (default: %(default)s)")
    made.add_argument(
        "--variant-limit", type=float, metavar="S", help="for one variant (default: what each part states)"
    )
    made.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    return made


def main() -> int:
    """Measure what is not recorded yet, write the last page, and return 1 if a part did not come to its end."""
    options = parser().parse_args()
    os.chdir(ROOT)
    options.out = options.out.absolute()
    linked()
    if options.plan:
        from .calls import told

        print(told(options.out, options.only))
        return 0
    options.preset = options.preset or ("dvgwm_5b" if options.device == "cuda" else "test_tiny")
    if importlib.util.find_spec("torch") is None:
        print("E2 BENCH_TORCH wanted torch, found none; nothing can be measured without it", file=sys.stderr)
        return 2
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        remedy = "--device cpu tries the code, --plan says what to bring to one"
        print(f"E2 BENCH_GPU wanted a CUDA GPU, found none; {remedy}", file=sys.stderr)
        return 2
    from dvgwm.models.presets import PRESETS
    from dvgwm.models.sizes import VaeSize

    fitting = [name for name, size in PRESETS.items() if size.refiner is not None and isinstance(size.codec, VaeSize)]
    if options.preset not in fitting:
        wanted = f"wanted --preset of {', '.join(fitting)}: a preview, a refiner and a VAE"
        print(f"E2 BENCH_PRESET {wanted}; got {options.preset}", file=sys.stderr)
        return 2
    return one(options) if options.one else every(options)


def linked() -> None:
    """Make ``dvgwm`` importable where it is not installed, for this process and its children."""
    if importlib.util.find_spec("dvgwm") is None:
        packages = ("runtime", "robots", "models", "training", "export", "kernels")
        subprocess.run([sys.executable, str(ROOT / "tests" / "make_links.py"), str(LINKS), *packages], check=True)
        sys.path.insert(0, str(LINKS))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(LINKS), os.environ.get("PYTHONPATH", "")]))


def rows_of(options: argparse.Namespace, name: str) -> Rows:
    """Return the rows of one part with this code on this machine."""
    from .machine import facts

    here = facts(options.device)
    key = key_of(PARTS[name].code, here, options.preset)
    return Rows(options.out, name, key, {**here, "preset": options.preset})


def one(options: argparse.Namespace) -> int:
    """Measure one part in this process and record that it is done."""
    from .measure import Bench

    # A part whose run was killed measures nothing behind its back.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    bench = Bench(options.device, options.preset, options.rounds, rows_of(options, options.one))
    started, resumed = time.perf_counter(), bench.rows.any()
    module = importlib.import_module(f".{PARTS[options.one].module}", __package__)
    getattr(module, f"run_{options.one}")(bench)
    bench.row(DONE, wall_s=time.perf_counter() - started, resumed=resumed)
    return 0


def every(options: argparse.Namespace) -> int:
    """Measure the parts that are asked for, one after another."""
    from .report import write_report
    from .runner import Limits, run_part

    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.after and not options.out.is_file() and options.after.is_file():
        shutil.copyfile(options.after, options.out)
    end_s, left = time.monotonic() + options.deadline, dict[str, str]()
    words = ["--device", options.device, "--preset", options.preset, "--rounds", str(options.rounds)]
    words += ["--out", str(options.out)]
    for name in options.only:
        rows = rows_of(options, name)
        missing = PARTS[name].missing
        print(f"== {name}: {PARTS[name].about}", flush=True)
        if rows.find(DONE):
            print("recorded already with this code on this machine", flush=True)
            continue
        limits = Limits(end_s, options.variant_limit or PARTS[name].limit_s)
        why = f"wants {', '.join(missing)}" if missing else run_part(rows, words, limits)
        if why:
            left[name] = why
            print(f"{name}: {why}", flush=True)
    print(write_report(options.out, rows_of(options, options.only[0]).facts))
    for name, why in left.items():
        print(f"not done: {name}: {why}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
