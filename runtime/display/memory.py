"""A bundle's memory, stage by stage."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..backends import tensorrt
from ..bundle.disk import read_bundle
from ..bundle.manifest import Manifest
from ..config.plugins import memory_use
from ..errors import EngineMemoryError
from ..residency import GB, SIZES_GB, Residency, plan_residency, told
from .tables import text_table

BAR = 24
"""Characters of a bar that is all of the memory."""


def show_memory(path: Path, memory_gb: float, gpu: bool) -> dict[str, Any]:
    """Print the residency in ``memory_gb`` and each stage's memory, and return both; raises as `plan_residency`."""
    manifest, memory_bytes = read_bundle(path).manifest, memory_gb * GB
    residency = plan_residency(manifest, memory_bytes, tensorrt.FACTS.memory if gpu else memory_use(manifest))
    rows = [
        (need.stage, ", ".join(need.loaded), told(need.peak_bytes), _bar(need.peak_bytes / memory_bytes))
        for need in residency.stages
    ]
    console = Console()
    where = (
        "of a GPU, engines compiled for it (counted, not measured)" if gpu else f"for {manifest.backend} on the host"
    )
    title = f"in {told(memory_bytes)} {where}"
    console.print(text_table(title, ["stage", "loaded for it alone"], ["peak", "of all"], rows))
    console.print(_line(residency, memory_bytes), soft_wrap=True, markup=False, highlight=False)
    return {
        "memory_gb": memory_gb,
        "gpu": gpu,
        "evicted": residency.evicted,
        "streamed": residency.streamed,
        "peak_bytes": {need.stage: need.peak_bytes for need in residency.stages},
    }


def sizes_table(manifest: Manifest) -> Table:
    """Return how the bundle would fit into each of the usual sizes of a GPU's memory, its engines compiled for it."""
    library, rows = tensorrt.FACTS.memory, []
    for size_gb in SIZES_GB:
        try:
            found = plan_residency(manifest, size_gb * GB, library)
        except EngineMemoryError as error:
            rows.append((f"{size_gb} GB", f"does not fit: {str(error).split(': ', 1)[1]}", ""))
        else:
            alone = ", ".join(file.split(".")[0] for file in found.evicted) or "none: all stay"
            streamed = ", ".join(file.split(".")[0] for file in found.streamed)
            alone += f"; streamed: {streamed}" if streamed else ""
            rows.append((f"{size_gb} GB", alone, f"{told(found.peak.peak_bytes)} in {found.peak.stage}"))
    title = "on a GPU, engines compiled for it: counted on the graphs, not measured"
    return text_table(title, ["memory", "loaded for their stage alone"], ["peak"], rows)


def _line(residency: Residency, memory_bytes: float) -> str:
    left = told(memory_bytes - residency.peak.peak_bytes)
    out = f"loaded for their stage alone: {', '.join(residency.evicted)}" if residency.evicted else "every engine stays"
    if residency.streamed:
        out += f"; weights from the host's memory: {', '.join(residency.streamed)} (dvgwm-runtime compile --streamed)"
    return f"{out}; {left} are left at the peak, stage {residency.peak.stage}"


def _bar(share: float) -> str:
    return f"{'#' * round(BAR * share):<{BAR}} {share:4.0%}"
