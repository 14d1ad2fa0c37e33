"""`dvgwm-runtime compile`: a bundle's engines for this GPU, and what they are."""

import time
from typing import Any

from rich.console import Console

from ..config.settings import CompilingSettings
from ..display.compiling import compiling_progress
from ..display.tables import text_table
from ..engine_store import record_of


def compile_bundle(settings: CompilingSettings) -> dict[str, Any]:
    """Compile what is not there yet, print a row for every engine, and return the facts."""
    started = time.time()
    engines = settings.engines.compile(compiling_progress)
    rows, new = [], []
    for file, path in engines.items():
        record, facts = record_of(path), path.stat()
        made = "took other weights" if record.refitted else "compiled"
        if facts.st_mtime >= started:
            new.append(file)
        else:
            made = f"{made} before"
        rows.append((file, made, f"{record.seconds:.1f} s", f"{facts.st_size / 1e6:.1f} MB"))
    where = next(iter(engines.values())).parent
    console = Console()
    console.print(text_table("compiled for this GPU", ["graph", "engine"], ["took", "size"], rows))
    console.print(f"engines are in {where}", soft_wrap=True, markup=False, highlight=False)
    return {
        "command": "compile",
        "folder": str(where),
        "engines": {file: path.name for file, path in engines.items()},
        "compiled": new,
        "wall_s": time.time() - started,
    }
