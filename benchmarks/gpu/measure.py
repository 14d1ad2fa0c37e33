"""Timing on the device's own clock, rows as they are measured, and what a row has to say of itself."""

import hashlib
import json
import math
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Bench:
    """Where figures come from and go to; ``rounds`` timed runs of each variant, in turn."""

    part: str
    device: str
    preset: str
    rounds: int
    file: Path
    facts: Mapping[str, object]

    def row(self, name: str, **figures: object) -> None:
        """Append one row at once, so that a run cut short keeps what it had, and show it."""
        row = {"part": self.part, "name": name, **figures}
        with self.file.open("a") as file:
            file.write(json.dumps(row | dict(self.facts)) + "\n")
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
        print("  ".join(f"{key}={value}" for key, value in shown.items()), flush=True)


def facts(device: str) -> dict[str, object]:
    """Return the machine, the versions and the commit of a row."""
    made: dict[str, object] = {"commit": commit(), "source": source(), "gpu": None, "python": platform.python_version()}
    made |= {name: installed(name) for name in ("torch", "triton", "diffusers", "cuda-core")}
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
        smi = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        properties = torch.cuda.get_device_properties(0)
        made |= {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "driver, power limit, clock": smi,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return made


def commit() -> str | None:
    """Return the commit, marked where more than recorded results differs from it; none without git."""
    if shutil.which("git") is None:
        return None
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    changes = [*git, "status", "--porcelain", "--", ".", ":!benchmarks/results"]
    dirty = subprocess.run(changes, capture_output=True, text=True, check=False).stdout.strip()
    return (head.stdout.strip() + ("-dirty" if dirty else "")) or None


def source() -> str:
    """Return a hash of the code under measurement: what a recorded part is valid for."""
    digest = hashlib.sha256()
    for folder in ("kernels", "models", "export", "runtime", "benchmarks/gpu"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def installed(name: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def synchronize(device: str) -> None:
    """Wait until the device is idle."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str) -> float:
    """Return the time of one run, on the device's clock where it has one."""
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


def alternate(variants: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, tuple[float, float]]:
    """Return median and maximum seconds of each variant, one run of each in turn, after two that do not count."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 2):
        for name, work in variants.items():
            taken = seconds(work, device)
            if turn >= 2:
                times[name].append(taken)
    return {name: (statistics.median(found), max(found)) for name, found in times.items()}


def replayed(
    variants: Mapping[str, Callable[[], object]], rounds: int, device: str, inner: int = 10
) -> dict[str, tuple[float, float]]:
    """`alternate` on CUDA graphs of ``inner`` runs each, seconds of one: no Python, no launch is in the figure.

    Variants have to have run once before. On a CPU, and what a graph cannot hold, is timed as it is.
    """
    if device != "cuda":
        return alternate(variants, rounds, device)
    graphs: dict[str, Callable[[], object]] = {}
    counts = {}
    for name, work in variants.items():
        graph = torch.cuda.CUDAGraph()
        try:
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                for _ in range(inner):
                    work()
            graphs[name], counts[name] = graph.replay, inner
        except Exception as error:  # a library's errors have no common base
            print(f"{name}: not in a graph ({str(error).strip()[:120]}); its launches are in its time", flush=True)
            graphs[name], counts[name] = work, 1
    times = alternate(graphs, rounds, device)
    return {name: (median / counts[name], slowest / counts[name]) for name, (median, slowest) in times.items()}


def first_call(work: Callable[[], object], device: str) -> float:
    """Return the wall time of the first run: compilation and all."""
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def working_bytes(work: Callable[[], object], device: str) -> int | None:
    """Return the most device memory that one run takes beside what is held before it (weights, other variants)."""
    if device != "cuda":
        work()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def weight_bytes(module: torch.nn.Module) -> int:
    """Return the memory of a module's parameters and buffers, shared ones once."""
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensors.values())


def usable(
    bench: Bench, name: str, works: Mapping[str, Callable[[], object]]
) -> tuple[dict[str, float], dict[str, object]]:
    """Return the first call's seconds and result of every variant that runs; one that does not gets a row that says why."""
    starts, results = {}, {}
    for variant, work in works.items():
        started = time.perf_counter()
        try:
            results[variant] = work()
            synchronize(bench.device)
        except Exception as error:  # a compiler's and a library's errors have no common base
            bench.row(name, variant=variant, refused=f"{type(error).__name__}: {str(error).strip()[:160]}", loss="none")
            continue
        starts[variant] = time.perf_counter() - started
    return starts, results


def relative(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the relative L2 error."""
    ours, reference = ours.double(), reference.double()
    return float((ours - reference).norm() / reference.norm().clamp_min(1e-30))


def psnr(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio of uint8 frames, in dB."""
    error = (ours.double() - reference.double()).pow(2).mean()
    return math.inf if error == 0 else float(10 * torch.log10(255.0**2 / error))


def ceilings(file: Path, gpu: object) -> dict[str, float]:
    """Return the best rates recorded for this GPU: FLOP/s in bf16 and FP8, bytes/s copied."""
    best: dict[str, float] = {}
    if file.is_file():
        for line in file.read_text().splitlines():
            row = json.loads(line)
            if row["part"] == "ceilings" and row["gpu"] == gpu and "rate" in row:
                best[row["kind"]] = max(best.get(row["kind"], 0.0), row["rate"])
    return best
