"""Tables of plain text that are as wide as the terminal, whatever the script of their cells.

Chinese characters take two cells, combining marks none; a column is as wide as its widest cell. On
a narrow terminal the widest columns are folded, so nothing is cut off. In a pipe lines are as long
as they need to be: one row, one line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells

from boli.cli.terminal import Style, styled, visible, width

_GAP = "  "
_NARROWEST = 4


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, and whether its cells are numbers (then they stand to the right)."""

    title: str
    numeric: bool = False


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    styles: Sequence[Style | None] | None = None,
) -> None:
    """Writes a table to stdout.

    Args:
        columns: What stands at the top.
        rows: The cells, one a column; control characters are made visible.
        styles: How each row is styled, if it is.
    """
    cells = [[visible(cell) for cell in row] for row in rows]
    titles = [column.title for column in columns]
    widths = [max(map(cell_len, column)) for column in zip(titles, *cells, strict=True)]
    widths = _fit(columns, widths, width(sys.stdout))
    sys.stdout.write(_row(columns, titles, widths, "bold"))
    for index, row in enumerate(cells):
        sys.stdout.write(_row(columns, row, widths, styles[index] if styles else None))


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Writes names and what is said of them, one below the other, to stdout."""
    rows = [[styled(visible(name), "bold", sys.stdout), visible(value)] for name, value in facts]
    widths = [max(cell_len(visible(name)) for name, _ in facts), max(cell_len(row[1]) for row in rows)]
    columns = (Column("", numeric=True), Column(""))  # the names are not folded
    widths = _fit(columns, widths, width(sys.stdout))
    for row in rows:
        sys.stdout.write(_row(columns, row, widths, None))


def _fit(columns: Sequence[Column], widths: Sequence[int], limit: int | None) -> list[int]:
    """The widths of the columns, the widest made narrower until all fit into `limit` cells.

    Numbers are hard to read in pieces, so their columns come last.
    """
    fitted = list(widths)
    if limit is None:
        return fitted
    excess = sum(fitted) + len(_GAP) * (len(fitted) - 1) - limit
    for numeric in (False, True):
        some = [index for index, column in enumerate(columns) if column.numeric == numeric]
        while excess > 0 and some and (widest := max(some, key=lambda index: fitted[index])) >= 0:
            if fitted[widest] <= _NARROWEST:
                break
            fitted[widest] -= 1
            excess -= 1
    return fitted


def _row(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int], style: Style | None) -> str:
    """One row, on as many lines as its tallest cell needs."""
    folded = [fold(cell, cells_wide) for cell, cells_wide in zip(cells, widths, strict=True)]
    lines = []
    for number in range(max(map(len, folded))):
        parts = []
        for column, cell, cells_wide in zip(columns, folded, widths, strict=True):
            part = cell[number] if number < len(cell) else ""
            space = " " * (cells_wide - cell_len(part))
            parts.append(space + part if column.numeric else part + space)
        line = _GAP.join(parts).rstrip()
        lines.append(styled(line, style, sys.stdout) if style else line)
    return "\n".join(lines) + "\n"


def fold(cell: str, limit: int) -> list[str]:
    """A cell in pieces of at most `limit` terminal cells.

    It is cut where two spaces are, else where one is, else anywhere.
    """
    if cell_len(cell) <= limit:
        return [cell]
    lines: list[str] = []
    line = ""
    gap = _GAP if _GAP in cell else " "
    for word in cell.split(gap):
        longer = f"{line}{gap}{word}" if line else word
        if cell_len(longer) <= limit:
            line = longer
            continue
        if line:
            lines.append(line)
        *whole, line = chop_cells(word, limit) or [""]
        lines += whole
    return [*lines, line]
