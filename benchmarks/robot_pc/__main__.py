"""Proves a bundle on this robot PC's GPU: compiled by TensorRT (or for RTX), compared with ONNX Runtime on the CPU, timed.

    python benchmarks/robot_pc                         # the shipped bundle; recorded parts are left out
    python benchmarks/robot_pc --bundle engines/dvgwm_5b --rounds 3
    python benchmarks/robot_pc --parts engines plan    # some of it
    python benchmarks/robot_pc --backend tensorrt_rtx  # on an RTX card; its engines take no other weights: no part lora

It tells first its needs and the missing ones. Rows go to benchmarks/results/robot_pc.jsonl, one as soon as a part is
done; stopped or failed, it goes on where it was. It wants no torch.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "robot_pc.jsonl"
WORK = HERE.parents[1] / "build" / "robot_pc"
PARTS = ("compile", "kernels", "arrays", "engines", "plan", "speed", "lora", "memory")
LIMIT_S = 7200


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(
        prog="python benchmarks/robot_pc", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--bundle", type=Path, help="bundle directory, of ONNX graphs (default: the shipped one)")
    made.add_argument(
        "--backend", choices=("tensorrt", "tensorrt_rtx"), default="tensorrt", help="the library (default: %(default)s)"
    )
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    made.add_argument("--rounds", type=int, default=10, help="timed plans on each library (default: %(default)s)")
    made.add_argument("--out", type=Path, default=RESULTS, help="where rows are appended (default: %(default)s)")
    made.add_argument("--again", action="store_true", help="do parts that are recorded already, too")
    made.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    return made


def main() -> int:
    """Prove all unrecorded parts, print the outcome, and return the worst part's exit code."""
    options = parser().parse_args()
    try:
        from bench import ProvenBundle
        from needs import missing, show
        from proofs import run
        from rows import recorded, summary
    except ImportError as error:
        print(f"E2 PROVE_MISSING wanted dvgwm with ONNX Runtime ({error}); pip install -e '.[onnx]'", file=sys.stderr)
        return 2
    if options.one:
        run(options.one, ProvenBundle.here(options.bundle, options.rounds, options.out, WORK, options.backend))
        return 0
    print(show(options.bundle, options.backend))
    if lacking := missing(options.bundle, options.backend):
        print(f"E2 PROVE_NEEDS {len(lacking)} of it are not here: {'; '.join(lacking)}", file=sys.stderr)
        return 2
    bench = ProvenBundle.here(options.bundle, options.rounds, options.out, WORK, options.backend)
    began = time.monotonic()
    parts = [name for name in options.parts if name != "lora" or options.backend == "tensorrt"]
    for name in parts:
        if not options.again and recorded(options.out, name, bench.key):
            print(f"{name}: recorded for this code, bundle and GPU (--again does it anew)", flush=True)
            continue
        print(f"{time.monotonic() - began:6.0f} s {name}", flush=True)
        command = [sys.executable, str(HERE), "--one", name, "--rounds", str(options.rounds), "--out", str(options.out)]
        command += ["--backend", options.backend]
        command += ["--bundle", str(options.bundle)] if options.bundle else []
        # A process each: what one does to the GPU or to the process is none of the next one's.
        if subprocess.run(command, check=False, timeout=LIMIT_S).returncode:
            print(f"{name}: failed; the next run tries it again", flush=True)
    text, fine = summary(options.out, parts, bench.key)
    print(text)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
