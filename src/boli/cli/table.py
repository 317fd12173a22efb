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
    """A column of a table.

    Attributes:
        title: What stands at its top.
        numeric: Its cells stand to the right.
        style: How its cells are styled.
    """

    title: str
    numeric: bool = False
    style: Style | None = None

    @property
    def whole(self) -> bool:
        """Whether its cells are folded only where folding all others was not enough."""
        return self.numeric or self.style is not None


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    styles: Sequence[Style | None] | None = None,
) -> None:
    """Writes a table with its titles to stdout.

    Args:
        columns: What stands at the top.
        rows: The cells, one a column; control characters are made visible.
        styles: How each row is styled, if it is.
    """
    cells = [[visible(cell) for cell in row] for row in rows]
    titles = [column.title for column in columns]
    widths = _widths(columns, [titles, *cells])
    sys.stdout.write(_row(columns, titles, widths, "bold"))
    for index, row in enumerate(cells):
        sys.stdout.write(_row(columns, row, widths, styles[index] if styles else None))


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Writes names and what is said of them, one below the other, to stdout."""
    columns = (Column("", style="bold"), Column(""))
    cells = [[visible(cell) for cell in fact] for fact in facts]
    widths = _widths(columns, cells)
    for row in cells:
        sys.stdout.write(_row(columns, row, widths, None))


def print_text(text: str) -> None:
    """Writes a line to stdout, folded where the terminal is narrower."""
    limit = width(sys.stdout)
    lines = [visible(text)] if limit is None else fold(visible(text), limit)
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
    """The widths of the columns, the widest made narrower until all fit into the terminal.

    Columns that should stay whole, such as numbers, come last.
    """
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    limit = width(sys.stdout)
    if limit is None:
        return widths
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - limit
    for whole in (False, True):
        some = [index for index, column in enumerate(columns) if column.whole == whole]
        while some and excess > 0:
            widest = max(some, key=lambda index: widths[index])
            if widths[widest] <= _NARROWEST:
                break
            widths[widest] -= 1
            excess -= 1
    return widths


def _row(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int], style: Style | None) -> str:
    """One row, on as many lines as its tallest cell needs."""
    folded = [fold(cell, limit) for cell, limit in zip(cells, widths, strict=True)]
    return "".join(
        _line(columns, [parts[number] if number < len(parts) else "" for parts in folded], widths, style)
        for number in range(max(map(len, folded)))
    )


def _line(columns: Sequence[Column], parts: Sequence[str], widths: Sequence[int], style: Style | None) -> str:
    """One line, without spaces at its end."""
    padded = []
    for column, part, limit in zip(columns, parts, widths, strict=True):
        space = " " * (limit - cell_len(part))
        padded.append(space + part if column.numeric else part + space)
    while padded and not padded[-1].strip():
        padded.pop()
    if padded:
        padded[-1] = padded[-1].rstrip()
    for index, cell in enumerate(padded):
        if cell_style := style or columns[index].style:
            padded[index] = styled(cell, cell_style, sys.stdout)
    return _GAP.join(padded) + "\n"


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
