"""`python export/build_engines.py`: checkpoints to a bundle for the robot PC."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

INSTALL = "building needs torch and its company: pip install -e '.[export]' in the project's directory"
EPILOG = """examples:
  python export/build_engines.py                                  a1_tiny for ONNX Runtime into engines/a1_tiny
  python export/build_engines.py --preset test_tiny --out /tmp/t  every class of the full-size system, tiny
  python export/build_engines.py --backend tensorrt_rtx           with engines for RTX 30xx, 40xx and 50xx inside
  python export/build_engines.py --instructions tasks.txt         with prompt embeddings of a task list inside
"""


class Parser(argparse.ArgumentParser):
    """A parser with errors of one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(2, f"E2 USAGE {message}. See `build_engines.py --help`\n")


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    options_parser = Parser(
        prog="build_engines.py",
        description="Export a preset's networks, check them against torch, and write a bundle.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options_parser.add_argument("--preset", default="a1_tiny", help="which system at which size (default: a1_tiny)")
    options_parser.add_argument(
        "--backend",
        default="onnx",
        help="engine library of the robot PC: onnx, torch, tensorrt (onnx, and compiled for this GPU), tensorrt_rtx (onnx, and "
        "engines for RTX cards inside, made without a GPU) (default: onnx)",
    )
    options_parser.add_argument(
        "--for",
        dest="capabilities",
        metavar="LIST",
        help="compute capabilities of the engines of tensorrt_rtx (default: 86,89,120, the cards of 30xx, 40xx and 50xx)",
    )
    options_parser.add_argument(
        "--precision",
        help="float32 (fp32), float16 (fp16), bfloat16 (bf16), int8_weights, int8, fp8 for onnx; for torch float32, bfloat16, "
        "fp8, either with _kernel (our attention), fp8_8bit, fp8_fp8 (attention on 8-bit scores, or in FP8) "
        "(default: float32, for tensorrt_rtx float16)",
    )
    options_parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="DIR",
        help="a recorded LeRobot data set (`dvgwm-train data`), which int8 and fp8 take the ranges of their numbers from",
    )
    options_parser.add_argument(
        "--trained-on",
        type=Path,
        metavar="DIR",
        help="the LeRobot data set that the weights were trained on: words and pictures unlike its own are then told "
        "(default: what the bundle says that the weights are from)",
    )
    options_parser.add_argument("--out", type=Path, help="bundle directory (default: engines/PRESET)")
    options_parser.add_argument(
        "--random-weights", type=int, metavar="SEED", help="seeded random weights, also where trained ones ship"
    )
    options_parser.add_argument(
        "--weights",
        type=Path,
        metavar="DIR",
        help="trained networks, from `dvgwm-train export` or a bundle for ONNX Runtime; what is not there is random "
        "(default: those of the shipped bundle, where the preset has one)",
    )
    options_parser.add_argument(
        "--base",
        type=Path,
        metavar="DIR",
        help="a diffusers pipeline (transformer, vae, text_encoder, tokenizer, scheduler)",
    )
    options_parser.add_argument(
        "--preview-lora",
        type=Path,
        metavar="PATH",
        help="a LoRA for its transformer, of peft or diffusers, to merge into it",
    )
    options_parser.add_argument(
        "--lora-alpha", type=float, metavar="A", help="the LoRA's alpha (default: what it says, else its rank)"
    )
    options_parser.add_argument(
        "--steps", default="export,build,verify,benchmark", help="how far to go, of export,build,verify,benchmark"
    )
    options_parser.add_argument(
        "--instructions", type=Path, metavar="FILE", help="instructions, one a line, to precompute"
    )
    options_parser.add_argument(
        "--no-text-encoder",
        action="store_true",
        help="leave it out of the bundle, which then knows --instructions only",
    )
    options_parser.add_argument(
        "--layers",
        type=int,
        default=0,
        metavar="N",
        help="the first N layers of every transformer only: a proof that fits",
    )
    options_parser.add_argument(
        "--frames", type=int, default=0, metavar="N", help="clips of N frames (9, 17, ...) instead of the preset's own"
    )
    options_parser.add_argument(
        "--static",
        action="store_true",
        help="fix guidance branches, frames and chunks to what a plan asks for (else open)",
    )
    options_parser.add_argument(
        "--engines", metavar="NAMES", help="verify these only (preview,refine,...), tell how far they are, and stop"
    )
    options_parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    return options_parser


def main(arguments: list[str] | None = None) -> int:
    """Build and return the exit code."""
    options = parser().parse_args(arguments)
    try:
        from dvgwm.export.console import run
    except ImportError as error:
        print(f"E2 EXPORT_MISSING {INSTALL} ({error})", file=sys.stderr)  # noqa: T201 (a command's own output)
        return 2
    return run(options)


if __name__ == "__main__":
    try:
        from dvgwm.runtime.commands.supervisor import supervise
    except ImportError:  # nothing is installed, which `main` tells
        sys.exit(main())
    supervise(main, "finished graphs are kept, run again to go on")
