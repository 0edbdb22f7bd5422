"""Tables of one line per row, for terminals and pipes alike: the last column gives way, nothing is padded."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from hwpass.errors import in_words

#: Rows that a table shows in the terminal; the JSON has them all.
ROWS = 25

#: Columns of the last cell that are always shown, however narrow the terminal.
LEAST = 12


def table_lines(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, right: str = "") -> list[str]:
    """The heading and the rows as text; `right` has an `r` for each column that is set flush right.

    >>> rows = [("conv", "8", "a long text that is cut"), ("x", "16", "y")]
    >>> table_lines(("name", "n", "more"), rows, 26, "lrl")
    ['name   n  more', 'conv   8  a long text tha…', 'x     16  y']
    """
    table = [tuple(headings), *map(tuple, rows)]
    *inner, _ = (max(map(cell_len, column)) for column in zip(*table, strict=True))
    rest = max(LEAST, width - sum(inner) - 2 * len(inner))
    lines = []
    for row in table:
        cells = [
            _justified(cell, size, right[i : i + 1]) for i, (cell, size) in enumerate(zip(row, inner, strict=False))
        ]
        last = row[-1] if cell_len(row[-1]) <= rest else set_cell_size(row[-1], rest - 1) + "…"
        lines.append("  ".join([*cells, last]).rstrip())
    return lines


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: str = "",
    more: str = "",
    most: int = ROWS,
) -> None:
    """Print the first `most` rows, and how many more there are. Names are neither markup nor wrapped."""
    heading, *lines = table_lines(headings, rows[:most], console.width, right)
    print_line(console, heading, "bold")
    for line in lines:
        print_line(console, line)
    if len(rows) > most:
        print_line(console, f"and {len(rows) - most} more (see {more or in_words('--json', 'its JSON')})", "dim")


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print one line as it is."""
    console.print(Text(text, style=style), soft_wrap=True)


def _justified(cell: str, size: int, edge: str) -> str:
    gap = " " * (size - cell_len(cell))
    return gap + cell if edge == "r" else cell + gap
