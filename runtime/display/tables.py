"""Tables for a terminal."""

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from ..errors import printable


def text_table(title: str, texts: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of ``rows``, no markup in them: columns of ``texts``, then of ``numbers``, which are set to the right."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    return table
