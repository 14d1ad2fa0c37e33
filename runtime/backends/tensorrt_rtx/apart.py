"""One engine's compilation in a process of its own.

The builder writes the outputs of a graph in the order of their addresses. In a new process, without anything of the user's
or of the graph's place, the same graph gives the same bytes. Its memory goes back to the system, and its crash is an
error of ours.
"""

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...child import Child, end_process
from ...errors import BundleIncompatibleError, DvgwmError, RecordingError
from ...strict import strict
from ..compiling import Building, GraphSource, Report

MODULE = "dvgwm.runtime.backends.tensorrt_rtx.apart"
_KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
_FIXED = {
    "OPENBLAS_NUM_THREADS": "1",  # of numpy, which is imported and not used: its threads would take memory at any moment
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",  # the first process would write it, and the next ones would not
}


@dataclass(frozen=True, slots=True)
class CompileOrder:
    """The source, how it is compiled, and the descriptors of the engine's file and of the progress, five digits each."""

    source: GraphSource
    building: Building
    engine: str
    progress: str


def compile_apart(source: GraphSource, building: Building, descriptor: int, report: Report) -> None:
    """Write the engine of ``source`` to an open file; raises as `RtxCompiler.write`, also if the process dies."""
    told, telling = os.pipe()
    order = CompileOrder(replace(source, path=Path(source.path.name)), building, f"{descriptor:05}", f"{telling:05}")
    try:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | _FIXED
        words = json.loads(json.dumps(asdict(order), default=str))
        child = Child(MODULE, words, (descriptor, telling), folder=source.path.parent, environment=environment)
    finally:
        os.close(telling)
    try:
        with os.fdopen(told) as lines:
            for line in lines:
                report(*json.loads(line))
        code = child.process.wait()
        error = child.error((BundleIncompatibleError, RecordingError))
        if code:
            ended = signal.Signals(-code).name if code < 0 else f"code {code}"
            said = child.said().rpartition("\n")[2]
            raise error or BundleIncompatibleError(
                "TENSORRT_DIED", f"the builder of {source.path.name} ended with {ended}: {said or 'it said nothing'}"
            )
    finally:
        child.process.kill()
        child.process.wait()
        child.close()


def run(order: CompileOrder) -> DvgwmError | None:
    """Compile as ``order`` says; returns its error, if there was one."""
    import tensorrt_rtx_bindings

    from .build import RtxCompiler

    cores = sorted(os.sched_getaffinity(0))
    # The builder begins threads; on one core they take memory in turn, so their addresses do not depend on the load.
    os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})

    def report(*step: Any) -> None:
        os.write(int(order.progress), f"{json.dumps(step)}\n".encode())

    try:
        RtxCompiler(tensorrt_rtx_bindings).write(order.source, order.building, int(order.engine), report)
    except DvgwmError as error:
        return error
    return None


def main() -> None:
    """Run the order on the command line."""
    error = run(strict(json.loads(sys.argv[1]), CompileOrder))
    end_process(0 if error is None else error.exit_code, error)
