"""Timing on the device's own clock, and one part's figures as they are measured."""

import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from .rows import Rows, read

ROOM, WORKING_BYTES = 1.3, 4e9
"""What a float32 network takes beside its weights: copies of some of them, and what it computes with."""
SPOILED = 75
"""The exit code of a part whose GPU context is spoiled: another process goes on behind what spoiled it."""


@dataclass(frozen=True)
class Bench:
    """One part under measurement on ``device``: the networks' size, ``rounds`` timed runs of each variant, its rows."""

    device: str
    preset: str
    rounds: int
    rows: Rows

    @property
    def part(self) -> str:
        """The part's name."""
        return self.rows.part

    @property
    def small(self) -> bool:
        """True for a trial on a machine without a GPU: sizes shrink, the code is the same."""
        return self.device != "cuda"

    @property
    def has_fp8(self) -> bool:
        """True if the device has instructions for FP8; on a CPU the plain twins run."""
        return self.small or torch.cuda.get_device_capability() >= (8, 9)

    def place_for(self, numbers: int) -> str:
        """Return the place of a network of so many numbers in float32: the device, or the host if it would not fit."""
        if self.small:
            return self.device
        free, _ = torch.cuda.mem_get_info()
        return self.device if ROOM * 4 * numbers + WORKING_BYTES < free else "cpu"

    def row(self, name: str, **figures: object) -> None:
        """Write one row at once, so a run cut short keeps its rows, and show it."""
        row = self.rows.add(name, figures)
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
        hidden = self.rows.facts.keys() | {"key", "part"}
        print("  ".join(f"{key}={value}" for key, value in shown.items() if key not in hidden), flush=True)

    def median(self, name: str, variant: str) -> float | None:
        """Return the recorded seconds of a variant, None if it has none."""
        return (self.rows.find(name, variant) or {}).get("median_s")

    def refused(self, name: str, variant: str) -> bool:
        """Return whether a variant was tried and failed."""
        return "refused" in (self.rows.find(name, variant) or {})

    def wanted(self, name: str, variants: Iterable[str]) -> Iterator[str]:
        """Yield the variants without a row."""
        for variant in variants:
            if self.rows.find(name, variant) is None:
                yield variant

    @contextmanager
    def trying(self, name: str, variant: str) -> Iterator[None]:
        """Measure one variant inside: if it fails a row says why, and if its process dies the parent writes that row."""
        running = running_file(self.rows.file)
        running.write_text(json.dumps([self.part, name, variant]))
        sys.audit("dvgwm.benchmark", name, variant)
        try:
            yield
        except Exception as error:  # a compiler's and a library's errors have no common base
            self.row(name, variant=variant, refused=f"{type(error).__name__}: {str(error).strip()[:300]}")
            if self.device == "cuda":
                self._leave_if_spoiled()
        running.unlink(missing_ok=True)
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _leave_if_spoiled(self) -> None:
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            running_file(self.rows.file).unlink(missing_ok=True)
            raise SystemExit(SPOILED) from None

    def ceilings(self) -> dict[str, float]:
        """Return the best rates recorded for this GPU: FLOP/s in bf16 and FP8, bytes/s copied."""
        best: dict[str, float] = {}
        for row in read(self.rows.file):
            if row["part"] == "ceilings" and row.get("gpu") == self.rows.facts["gpu"] and row.get("rate"):
                best[row["kind"]] = max(best.get(row["kind"], 0.0), row["rate"])
        return best


def running_file(rows: Path) -> Path:
    """Return the file with the part's present variant: it tells the cause of a process's death."""
    return rows.with_suffix(".running")


def ratio(over: float | None, under: float | None) -> float | None:
    """Return a quotient, None if either is not known."""
    return None if over is None or under is None else over / under


def synchronize(device: str) -> None:
    """Wait until the device is idle."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str) -> float:
    """Return the time of one run, on the device's clock if it has one."""
    if device != "cuda":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def timed(work: Callable[[], object], rounds: int, device: str) -> dict[str, float]:
    """Return median and maximum seconds of ``work``, its launches among them, after two uncounted runs."""
    taken = [seconds(work, device) for _ in range(rounds + 2)][2:]
    return {"median_s": statistics.median(taken), "max_s": max(taken)}


def replayed(work: Callable[[], object], rounds: int, device: str, inner: int = 10) -> dict[str, object]:
    """`timed` on a CUDA graph of ``inner`` runs, seconds of one: no Python and no launch is in the figure.

    With launches it is ``launched_s``; ``timed`` is the kind of ``median_s``: "graph", "host" on a CPU, or why no graph holds
    the work. It has to have run once before.
    """
    launched = timed(work, rounds, device)
    if device != "cuda":
        return launched | {"launched_s": launched["median_s"], "timed": "host"}
    graph = torch.cuda.CUDAGraph()
    try:
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            for _ in range(inner):
                work()
    except RuntimeError as error:
        return launched | {"launched_s": launched["median_s"], "timed": f"launches: {str(error).strip()[:120]}"}
    found = {name: taken / inner for name, taken in timed(graph.replay, rounds, device).items()}
    return found | {"launched_s": launched["median_s"], "timed": "graph"}


@contextmanager
def watched_card(device: str) -> Iterator[dict[str, float]]:
    """Yield the medians of the card's clock and power during the block, filled in at its end; empty if nobody tells them."""
    found: dict[str, float] = {}
    tool = shutil.which("nvidia-smi") if device == "cuda" else None
    if tool is None:
        yield found
        return
    query = [tool, "-i", "0", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits", "-lms", "100"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as watching:
        try:
            yield found
        finally:
            watching.terminate()
            told = watching.stdout.read() if watching.stdout else ""
    rows = re.findall(r"^\s*([\d.]+), *([\d.]+)\s*$", told, re.MULTILINE)
    for name, values in zip(("clock_mhz", "power_w"), zip(*rows, strict=True), strict=False):
        found[name] = statistics.median(map(float, values))


def first_call(work: Callable[[], object], device: str) -> float:
    """Return the wall time of the first run: compilation and all."""
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def working_bytes(work: Callable[[], object], device: str) -> int | None:
    """Return the peak of device memory in one run, beside the memory held before it (weights, other variants)."""
    if device != "cuda":
        work()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def forget_peak(device: str) -> None:
    """Give back unused memory, and begin the count of the peak anew."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> dict[str, int | None]:
    """Return the peak of the tensors' bytes since `forget_peak`, and of torch's reserve for them."""
    if device != "cuda":
        return {"held_bytes": None, "reserved_bytes": None}
    return {"held_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved()}


def weight_bytes(module: torch.nn.Module) -> int:
    """Return the memory of a module's parameters and buffers, shared ones once."""
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensors.values())


def relative(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the relative L2 error."""
    ours, reference = ours.double(), reference.double()
    return float((ours - reference).norm() / reference.norm().clamp_min(1e-30))


def psnr(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio of uint8 frames, in dB."""
    error = (ours.double() - reference.double()).pow(2).mean()
    return math.inf if error == 0 else float(10 * torch.log10(255.0**2 / error))
