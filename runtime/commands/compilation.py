"""`dvgwm-runtime compile`: a bundle's engines, made ahead or for this GPU, and a row for each."""

import time
from typing import Any

from rich.console import Console

from ..compiled import record_in
from ..config.settings import CompilingSettings
from ..display.compiling import compiling_progress
from ..display.tables import text_table
from ..engine_store import Record


def compile_bundle(settings: CompilingSettings) -> dict[str, Any]:
    """Compile what is not there yet, print a row for every engine, and return the facts."""
    started = time.time()
    bundle, engines = settings.engines.compile(compiling_progress, settings.choices)
    rows, new = [], []
    for file, path in engines.items():
        record, facts = record_in(bundle, path), path.stat()
        made, took = "in the bundle", ""
        if isinstance(record, Record):
            made = "took other weights" if record.refitted else "compiled"
            took = f"{record.seconds:.1f} s"
            if facts.st_mtime >= started:
                new.append(file)
            else:
                made = f"{made} before"
        gpus = ", ".join(record.building.capabilities) or record.facts.get("gpu", "this")
        rows.append((file, made, gpus, took, f"{facts.st_size / 1e6:.1f} MB"))
    where = next(iter(engines.values())).parent
    console = Console()
    console.print(text_table("compiled", ["graph", "engine", "GPU"], ["took", "size"], rows))
    console.print(f"engines are in {where}", soft_wrap=True, markup=False, highlight=False)
    return {
        "command": "compile",
        "folder": str(where),
        "engines": {file: path.name for file, path in engines.items()},
        "compiled": new,
        "wall_s": time.time() - started,
    }
