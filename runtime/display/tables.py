"""Tables for a terminal."""

from collections.abc import Iterable, Sequence

from rich.table import Table


def text_table(title: str, texts: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of ``rows``: columns of ``texts``, then columns of ``numbers``, which are set to the right."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
