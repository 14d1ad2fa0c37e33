"""What a row has to say of the machine and of the code."""

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from .code import ROOT

VERSIONS = ("torch", "triton", "diffusers", "cuda-core")


def facts(device: str) -> dict[str, object]:
    """Return the commit, the versions and the GPU; a row is valid where all but the commit are the same."""
    made: dict[str, object] = {"commit": commit(), "gpu": None, "python": platform.python_version()}
    made |= {name: installed(name) for name in VERSIONS}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        made |= {
            "gpu": properties.name,
            "gpu_gb": round(properties.total_memory / 1e9),
            "capability": f"{properties.major}.{properties.minor}",
            "driver, power limit, clock": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return made


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or None


def commit() -> str | None:
    """Return the commit, marked where more than recorded results differs from it; none without git."""
    if shutil.which("git") is None:
        return None
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    changes = [*git, "status", "--porcelain", "--", ".", ":!benchmarks/results"]
    dirty = subprocess.run(changes, capture_output=True, text=True, check=False).stdout.strip()
    return (head.stdout.strip() + ("-dirty" if dirty else "")) if head.stdout.strip() else None


def installed(name: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
