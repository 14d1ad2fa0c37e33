"""The proof's needs of a machine: found, or missing with a remedy."""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from dvgwm.runtime.backends.cubins import kernel_folder, target_for
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.config.plugins import backend_facts, shipped
from dvgwm.runtime.errors import DvgwmError

PLANS = 2.5
"""Engines are as large as the weights, once for the bundle and once with other weights."""


def needs(bundle: Path | None, backend: str = "tensorrt") -> Iterator[tuple[str, str, str]]:
    """Yield each need, the finding ("" if it is not enough), and the remedy."""
    place = bundle or shipped("a1_tiny")
    yield "a bundle of ONNX graphs", _told(lambda: _bundle(place)), "build one with `python export/build_engines.py`"
    yield "a GPU and its driver", _told(_gpu), "install NVIDIA's driver; pip install 'dvgwm[cuda]'"
    facts = backend_facts(backend)
    yield backend, _version(facts.library), f"pip install 'dvgwm[{facts.extra}]'"
    yield "ONNX Runtime, to compare with", _version("onnxruntime"), "pip install 'dvgwm[onnx]'"
    yield "kernels for this GPU", _told(_kernels), "make cubins (wants Triton, no GPU), or install a wheel"
    yield "room for engines", _told(lambda: _room(place)), "free some, or set XDG_CACHE_HOME"


def show(bundle: Path | None, backend: str = "tensorrt") -> str:
    """Return a line for each need."""
    lines = [f"  {what:<30} {found or f'MISSING: {remedy}'}" for what, found, remedy in needs(bundle, backend)]
    return "\n".join(["it needs", *lines])


def missing(bundle: Path | None, backend: str = "tensorrt") -> list[str]:
    """Return the missing needs, with the remedy."""
    return [f"{what}: {remedy}" for what, found, remedy in needs(bundle, backend) if not found]


def _told(look: Callable[[], str]) -> str:
    try:
        return look()
    except (DvgwmError, ImportError, OSError):
        return ""


def _bundle(place: Path) -> str:
    manifest = read_bundle(place, "onnx").manifest
    return f"{place}, {manifest.precision}"


def _gpu() -> str:
    from dvgwm.runtime.backends.cuda_device import CudaDevice

    return ", ".join(CudaDevice().facts.values())


def _version(module: str) -> str:
    if importlib.util.find_spec(module) is None:
        return ""
    return str(importlib.import_module(module).__version__)


def _kernels() -> str:
    from dvgwm.runtime.backends.cuda_device import CudaDevice

    major, minor = map(int, CudaDevice().facts["capability"].split("."))
    return f"sm_{target_for((major, minor), kernel_folder())}"


def _room(place: Path) -> str:
    wanted = PLANS * sum(record.size for record in read_bundle(place).manifest.files.values())
    free = shutil.disk_usage(Path.home()).free
    return f"{free / 1e9:.0f} GB free, {wanted / 1e9:.1f} GB wanted" if free > wanted else ""
