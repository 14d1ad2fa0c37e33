"""Ahead-of-time build: every kernel for every GPU as a cubin with a JSON beside it, on a machine without a GPU.

``python -m dvgwm.kernels.aot --arch 90 --out DIR`` writes ``DIR/sm_90/NAME.cubin`` and ``NAME.json``. A launcher needs
no more than the JSON: the arguments in order with their types, the multiples of 16 among them, warps, shared memory, the
constants compiled in, and the compiler's facts.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .language import AVAILABLE
from .variant import ARCHITECTURES, MADE, Variant

MODULES = (
    "affine_step", "attention", "attention_8bit", "attention_tma", "bridge", "modulate", "qk_norm_rope", "quantise",
    "spatial_norm",
)  # fmt: skip
"""The modules with kernels; they want torch, and are imported to compile one."""
ALIGNMENT = 16
"""Every pointer is a multiple of so many bytes, every size named ``divisible`` of so many elements."""
NEWEST_PTX = 90
"""Version 9.0: the newest for a CUDA 13.0 driver."""


def ptx_version(architecture: int) -> int:
    """Return the PTX version for the target: the one of Triton's own assembler, and no newer than `NEWEST_PTX`."""
    from triton.backends.nvidia.compiler import get_ptxas, ptx_get_version

    return min(NEWEST_PTX, ptx_get_version(get_ptxas(architecture).version))


def variants(architecture: int) -> tuple[Variant, ...]:
    """Return every kernel's forms for one target."""
    modules = (import_module(f".{name}", __package__) for name in MODULES)
    return tuple(variant for module in modules for variant in module.variants(architecture))


def compile_variant(variant: Variant, architecture: int) -> tuple[bytes, str, dict[str, Any]]:
    """Return the cubin, its PTX and the launcher's facts."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(variant.signature)
    aligned = [name for name, kind in variant.signature.items() if kind.startswith("*") or name in variant.divisible]
    order = list(variant.kernel.arg_names)
    attributes = {(order.index(name),): [["tt.divisibility", ALIGNMENT]] for name in aligned}
    full = {name: variant.signature.get(name, "constexpr") for name in order}
    constants = {(order.index(name),): value for name, value in variant.constants.items()}
    source = ASTSource(variant.kernel, signature=full, constexprs=constants, attrs=attributes)
    options = {
        "num_warps": variant.warps,
        "num_stages": variant.stages,
        "ptx_version": ptx_version(architecture),
        **MADE,
    }
    with triton.knobs.compilation.scope():
        # Lines of source would make a cubin depend on the folder that it was built in.
        triton.knobs.compilation.disable_line_info = True
        compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    metadata = compiled.metadata
    ptx = compiled.asm["ptx"]
    facts = {
        "name": variant.name,
        "function": metadata.name,
        "architecture": architecture,
        "arguments": [[name, variant.signature[name]] for name in names],
        "scratch_pointers": _parameters(ptx) - len(names),
        "scratch_bytes": int(getattr(metadata, "global_scratch_size", 0) or 0),
        "multiple_of_16": aligned,
        "constants": dict(variant.constants),
        "threads": 32 * metadata.num_warps,  # more than asked for where loads have warps of their own
        "shared_bytes": metadata.shared,
        "matrix": variant.matrix,
        "ptx_version": ptx_version(architecture) / 10,
        "triton": triton.__version__,
    }
    return compiled.asm["cubin"], ptx, facts


def _parameters(ptx: str) -> int:
    entry = ptx[ptx.index(".entry") :]
    return entry[: entry.index(")")].count(".param")


def build(architectures: Sequence[int], out: Path, keep_ptx: bool, jobs: int) -> Iterator[str]:
    """Write cubins and their facts below ``out`` and yield ``sm_90/name`` as each is done."""
    work = [(index, architecture) for architecture in architectures for index in range(len(variants(architecture)))]
    with ProcessPoolExecutor(jobs) as pool:
        pending = [pool.submit(_write, index, architecture, out, keep_ptx) for index, architecture in work]
        for done in as_completed(pending):
            yield done.result()


def _write(index: int, architecture: int, out: Path, keep_ptx: bool) -> str:
    variant = variants(architecture)[index]
    cubin, ptx, facts = compile_variant(variant, architecture)
    folder = out / f"sm_{architecture}"
    folder.mkdir(parents=True, exist_ok=True)
    # The JSON is written last: where it is, its cubin is whole.
    (folder / f"{variant.name}.cubin").write_bytes(cubin)
    if keep_ptx:
        (folder / f"{variant.name}.ptx").write_text(ptx)
    facts["sha256"] = hashlib.sha256(cubin).hexdigest()
    (folder / f"{variant.name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    return f"sm_{architecture}/{variant.name}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the kernels of the command line and return an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dvgwm.kernels.aot",
        description="Compile every Triton kernel ahead of time. Needs Triton, no GPU and no CUDA toolkit.",
    )
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHITECTURES), choices=ARCHITECTURES, metavar="SM",
                        help="compute capabilities such as 90 (default: all of %(default)s)")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder for sm_*/NAME.cubin and NAME.json")
    parser.add_argument("--ptx", action="store_true", help="keep the PTX beside each cubin, to read")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not AVAILABLE or find_spec("torch") is None:
        print(
            "E2 KERNELS_TRITON wanted Triton and torch to compile kernels, found not both; pip install 'dvgwm[kernels]'",
            file=sys.stderr,
        )
        return 2
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("E2 KERNELS_INTERPRET TRITON_INTERPRET=1 is set: unset it to compile", file=sys.stderr)
        return 2
    started = time.perf_counter()
    total = sum(len(variants(architecture)) for architecture in options.arch)
    try:
        for count, name in enumerate(build(options.arch, options.out, options.ptx, options.jobs), 1):
            print(f"[{count:3}/{total}] {name}", flush=True)
    except OSError as error:
        where = f" at {error.filename}" if error.filename else "; processes want a writable /dev/shm"
        print(f"E50 KERNELS_WRITE {error.strerror or error}{where}", file=sys.stderr)
        return 50
    print(f"{total} kernels in {time.perf_counter() - started:.1f} s into {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
