"""The result of a query in a terminal: nothing is cut off, however narrow it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 100
GAP = 2
"Characters between two columns."
WIDEST_UNBROKEN, NARROWEST_BROKEN = 24, 20
"Columns of words up to this width are not broken; wider ones, such as URIs, are, into lines of this width or more."


def print_rows(rows: pa.Table, console: Console) -> None:
    """Print a query's result; at most the first 100 rows.

    Long values are broken over several lines. Where the columns do not fit side by side even so, each row is shown as
    a list of its values.
    """
    cells = [[_shown(value) for value in row.values()] for row in rows.slice(0, MOST_ROWS).to_pylist()]
    names = rows.column_names
    widths = [max(map(len, [name, *column])) for name, *column in zip(names, *cells, strict=True)]
    narrow = [min(width, max(NARROWEST_BROKEN, len(name))) for width, name in zip(widths, names, strict=True)]
    least = [width if width <= WIDEST_UNBROKEN else less for width, less in zip(widths, narrow, strict=True)]
    if sum(least) + GAP * len(least) <= console.width:
        table = Table(box=None)
        for name, width in zip(names, least, strict=True):
            table.add_column(escape(name), min_width=width, overflow="fold")
        for row in cells:
            table.add_row(*map(escape, row))
        console.print(table)
    else:
        longest = max(map(len, names))
        for number, row in enumerate(cells, 1):
            console.print(f"row {number}", style="bold", highlight=False)
            for name, cell in zip(names, row, strict=True):
                console.print(f"{name:{longest}}  {cell}", markup=False, highlight=False, soft_wrap=True)
    if len(rows) > MOST_ROWS:
        console.print(f"... {len(rows) - MOST_ROWS} rows more: add a LIMIT, or write them all with --output rows.csv")


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
