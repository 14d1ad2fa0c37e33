"""Progress of a compilation."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..compiled import Report


@contextmanager
def compiling_progress(room: str) -> Iterator[Report]:
    """Show on standard error the ``room`` for compiling, then the engine, of how many, and its progress."""
    texts = TextColumn("{task.description}"), TextColumn("{task.fields[phase]}")
    columns = texts[0], BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), texts[1]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        if room:
            progress.console.print(room, markup=False, highlight=False, soft_wrap=True)
        task = progress.add_task("compiling", total=None, phase="")

        def report(file: str, phase: str, done: int, steps: int, index: int, total: int) -> None:
            told = f"engine {index + 1} of {total}, {file}"
            if not progress.console.is_terminal and done == 0:
                progress.console.print(f"{told}: {phase}", markup=False, highlight=False)
            progress.update(task, description=told, phase=phase, completed=done, total=steps)

        yield report
