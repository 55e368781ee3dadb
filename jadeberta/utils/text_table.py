"""Tables for terminals and logs."""

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

NO_LIMIT = 100_000
"""Columns of the page that a table is laid out on: rows are never wrapped or cut."""


def format_table(
    headers: Sequence[str], rows: Iterable[Sequence[object]], title: str = "", left: int = 1, rule: bool = True
) -> str:
    """Returns a plain-text table without colours, ready for a terminal, a log or a pipe.

    Args:
        headers: one a column; all empty: no line of headers.
        rows: cells, converted by `str`.
        title: a line above the table; empty: none.
        left: number of columns, from the first, that are aligned left; the others hold figures and are aligned right.
        rule: draw a line under the headers.
    """
    table = Table(
        box=box.SIMPLE_HEAD if rule else None, show_header=any(headers), show_edge=False, pad_edge=False, padding=(0, 1)
    )
    for number, header in enumerate(headers):
        table.add_column(header, justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    page = Console(file=io.StringIO(), width=NO_LIMIT, color_system=None, markup=False, highlight=False, emoji=False)
    page.print(table)
    assert isinstance(page.file, io.StringIO)
    lines = [line.rstrip() for line in page.file.getvalue().splitlines()]
    return "\n".join([title, *lines] if title else lines)
