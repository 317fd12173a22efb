"""Chapters in a terminal of any width, with colours or without."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.text import Text

from boli.cli.table import fold
from boli.trace.view.colours import level, shade, tint
from boli.trace.view.parts import (
    Bars,
    Facts,
    Film,
    Formula,
    Grid,
    Heading,
    Part,
    Prose,
    Ruler,
    Table,
)  # fmt: skip
from boli.trace.view.shown import fitted, shortened, wrapped

_READABLE: Final = 100  # cells; longer lines of prose are hard to read
_GAP: Final = "  "
_WALL_CELL: Final = (5, 10)  # cells of a wall with text: at least, at most
_HEAT_CELL: Final = 6  # at most; from there on a cell has room for its number
_NUMBERED: Final = 4
_SHORTEST: Final = 10  # cells of a bar for which names are cut
_SYSTEMS: Final = ("truecolor", "256")  # fewer colours cannot tell tints apart
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"

_HEADING, _STRONG, _FAINT, _BAR = (
    Style(bold=True, color="cyan"), Style(bold=True), Style(dim=True), Style(color="cyan"),
)  # fmt: skip


class Screen:
    """Writes parts to a console, line by line, never wider than it is.

    Args:
        console: Where to. Where it has few colours or none, shades stand for tints.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._width = max(console.width, 30)
        self._plain = console.no_color or console.color_system not in _SYSTEMS

    def show(self, parts: Iterable[Part]) -> None:
        """Writes parts with empty lines between them."""
        begun = False
        for part in parts:
            if begun and not (isinstance(part, Prose) and part.faint):
                self._put(Text())
            begun = True
            for line in self._lines(part):
                self._put(line)

    def _put(self, line: Text) -> None:
        if self._plain or not line.spans:  # else spaces at the end may be tinted
            line.rstrip()
        self._console.print(line, soft_wrap=True)

    def _lines(self, part: Part) -> Iterable[Text]:
        match part:
            case Heading(text, level):
                return self._heading(text, level)
            case Prose(text, faint):
                style = _FAINT if faint else Style()
                return [Text(line, style) for line in wrapped(text, min(self._width, _READABLE))]
            case Formula():
                return self._formula(part)
            case Facts(rows):
                return self._facts(rows)
            case Table():
                return self._table(part)
            case Film():
                return self._film(part)
            case Grid():
                return self._grid(part)
            case Bars():
                return self._bars(part)
            case Ruler():
                return self._ruler(part)

    def _heading(self, text: str, level: int) -> Iterable[Text]:
        lines = wrapped(text, self._width)
        yield from (Text(line, _HEADING if level == 1 else _STRONG) for line in lines)
        if level == 1:
            yield Text("─" * max(map(cell_len, lines)), _HEADING)

    def _formula(self, formula: Formula) -> Iterable[Text]:
        lines = wrapped(formula.text, self._width - 2)
        for line in lines:
            yield Text("  " + line, _STRONG)
        if formula.source:
            yield Text("  " + shortened(formula.source, self._width - 2), _FAINT)

    def _facts(self, rows: Sequence[tuple[str, str]]) -> Iterable[Text]:
        most = min(max(cell_len(name) for name, _ in rows), self._width // 2)
        for name, said in rows:
            for number, line in enumerate(wrapped(said, min(self._width, _READABLE) - most - 2)):
                yield Text.assemble((fitted(name if not number else "", most), _STRONG), _GAP, line)

    def _table(self, table: Table) -> Iterable[Text]:
        kept = [n for n, column in enumerate(table.columns) if not (column.spare and self._width < _READABLE)]
        titles = [table.columns[n].title for n in kept]
        numeric = [table.columns[n].numeric for n in kept]
        rows = [[row[n] for n in kept] for row in table.rows]
        widths = [max(map(cell_len, column)) for column in zip(titles, *rows, strict=True)]
        _narrow(widths, numeric, self._width - len(_GAP) * (len(widths) - 1))
        for number, row in enumerate([titles, *rows]):
            style = _STRONG if number == 0 or number - 1 in table.strong else Style()
            folded = [fold(cell, width) for cell, width in zip(row, widths, strict=True)]
            for place in range(max(map(len, folded))):
                cells = [lines[place] if place < len(lines) else "" for lines in folded]
                yield Text(
                    _GAP.join(
                        " " * (width - cell_len(cell)) + cell
                        if right
                        else cell + " " * (width - cell_len(cell))
                        for cell, width, right in zip(cells, widths, numeric, strict=True)
                    ),
                    style,
                )

    def _film(self, film: Film) -> Iterable[Text]:
        width = max(max(cell_len(text) for text in (frame.text, *frame.notes)) for frame in film.frames)
        width = min(max(width, 4), 14)
        across = max((self._width + 1) // (width + 1), 1)
        for first in range(0, len(film.frames), across):
            frames = film.frames[first : first + across]
            if first:
                yield Text()
            line = Text()
            for frame in frames:
                tinted = frame.strength is not None and not self._plain
                line.append(
                    fitted(frame.text, width), tint(frame.strength or 0.0) if tinted else _STRONG
                ).append(" ")
            yield line
            if self._plain:
                yield Text(" ".join(level(frame.strength or 0.0) * width for frame in frames))
            for notes in zip(*(frame.notes for frame in frames), strict=True):
                yield Text(" ".join(fitted(note, width) for note in notes), _FAINT)

    def _grid(self, grid: Grid) -> Iterable[Text]:
        margin = min(max(map(cell_len, grid.rows)), 16) + 1
        beside = max(map(cell_len, (grid.aside[0], *grid.aside[1]))) + 1 if grid.aside else 0
        room = max(self._width - margin - beside, 8)
        if grid.texts is None:
            yield from self._heat(grid, margin, room)
            return
        widest = max((cell_len(text) for row in grid.texts for text in row), default=1) + 2
        least, most = _WALL_CELL
        width = min(max(room // len(grid.columns), least), max(widest, least), most)
        across = max(room // width, 1)
        for first in range(0, len(grid.columns), across):
            if first:
                yield Text()
            places = range(first, min(first + across, len(grid.columns)))
            yield Text(" " * margin + "".join(fitted(f" {grid.columns[n]}", width) for n in places), _STRONG)
            for number, title in enumerate(grid.rows):
                line = Text().append(fitted(title, margin), _FAINT)
                for n in places:
                    self._wall_cell(line, grid, number, n, width)
                yield line

    def _wall_cell(self, line: Text, grid: Grid, row: int, column: int, width: int) -> None:
        value, text = grid.values[row][column], grid.texts[row][column] if grid.texts else ""
        outlined = (row, column) in grid.outlined
        inside = fitted(text, width - 2)
        if value is None:
            line.append(f" {inside} ", _FAINT)
            return
        share = min(value / grid.most, 1.0) if grid.most > 0.0 else 0.0
        left, right = "[]" if outlined else (" ", shade(share) if self._plain else " ")
        style = Style() if self._plain else tint(share)
        line.append(left + inside + right, style + Style(bold=True) if outlined else style)

    def _heat(self, grid: Grid, margin: int, room: int) -> Iterable[Text]:
        """Cells without text; the first column and the last ones if there is no room for all."""
        count = len(grid.columns)
        width = min(max(room // max(count, 1), 1), _HEAT_CELL)
        places = list(range(count))
        if count * width > room:
            places = [0, *range(count - room + 2, count)]
        gap = len(places) < count
        if width >= _NUMBERED:
            titles = "".join(fitted(shortened(grid.columns[n], width - 1), width) for n in places)
        else:
            titles = _ticks(places, width, gap=gap)
        title = f" {grid.aside[0]}" if grid.aside else ""
        yield Text(" " * margin + titles + title, _FAINT)
        for number, name in enumerate(grid.rows):
            line = Text().append(fitted(name, margin), _FAINT)
            for n in places:
                if gap and n == places[1]:
                    line.append("⋯", _FAINT)
                self._heat_cell(line, grid.values[number][n], grid.most, width)
            if grid.aside:
                line.append(f" {grid.aside[1][number]}", _FAINT)
            yield line

    def _heat_cell(self, line: Text, value: float | None, most: float, width: int) -> None:
        if value is None:
            line.append(" " * width)
            return
        share = min(value / most, 1.0) if most > 0.0 else 0.0
        number = f"{100 * value:.0f}" if width >= _NUMBERED else ""
        if self._plain:
            filled = width - len(number) - 1 if number else width
            line.append(f"{shade(share) * filled}{number}{' ' if number else ''}")
        else:
            line.append(f"{number} ".rjust(width) if number else " " * width, tint(share))

    def _bars(self, bars: Bars) -> Iterable[Text]:
        names = [row.name for row in bars.rows]
        cells = [
            max(map(cell_len, column))
            for column in zip(bars.columns, *(row.cells for row in bars.rows), strict=True)
        ]
        while cells and self._width - sum(cells) - len(_GAP) * (len(cells) + 1) < _SHORTEST:
            cells.pop()  # there is no room for all columns
        room = self._width - sum(cells) - len(_GAP) * (len(cells) + 1)
        name = min(max(map(cell_len, [bars.title, *names])), max(room - _SHORTEST, 8))
        room -= name
        length = min(room, 40)
        head = _GAP.join(" " * (w - cell_len(t)) + t for t, w in zip(bars.columns, cells, strict=False))
        yield Text(fitted(bars.title, name) + _GAP + head, _STRONG)
        for row in bars.rows:
            style = _STRONG if row.strong else Style()
            said = _GAP.join(" " * (w - cell_len(t)) + t for t, w in zip(row.cells, cells, strict=False))
            line = Text.assemble((fitted(row.name, name), style), _GAP, (said, style), _GAP)
            if length >= _SHORTEST // 2:
                line.append(_bar(row.share, length), _BAR)
            yield line

    def _ruler(self, ruler: Ruler) -> Iterable[Text]:
        width = min(self._width, _READABLE)
        line = Text()
        for number, bucket in enumerate(ruler.buckets):
            cells = round(bucket.high * width) - round(bucket.low * width)
            if not cells:
                continue
            label = bucket.text if cells > 2 else ""
            if self._plain:
                line.append("▏" + fitted(label, cells - 1), _STRONG if number == ruler.hit else Style())
            else:
                line.append(
                    fitted(label, cells), tint(0.95 if number == ruler.hit else (0.2, 0.35)[number % 2])
                )
        yield line
        place = min(int(ruler.mark * width), width - 1)
        said = f"{ruler.mark:.6f}"
        if place + 2 + len(said) <= width:
            yield Text(" " * place + "▲ " + said, _STRONG)
        else:
            yield Text(" " * (place - len(said) - 1) + said + " ▲", _STRONG)


def _narrow(widths: list[int], numeric: Sequence[bool], room: int) -> None:
    """Makes the widest columns narrower until all fit; numbers only where that was not enough."""
    for least, numbers in ((4, False), (4, True), (2, False), (2, True)):
        some = [n for n, right in enumerate(numeric) if right == numbers]
        while some and sum(widths) > room:
            widest = max(some, key=lambda n: widths[n])
            if widths[widest] <= least:
                break
            widths[widest] -= 1


def _ticks(places: Sequence[int], width: int, *, gap: bool) -> str:
    """Numbers of columns that are too narrow for titles, where there is room for them."""
    line = ""
    at = 0
    for index, place in enumerate(places):
        if gap and index == 1:
            at += 1
        if place % 5 == 0 and (not line or at > len(line)):
            line += " " * (at - len(line)) + str(place)
        at += width
    return line[:at] + " " * (at - len(line))


def _bar(share: float, length: int) -> str:
    """A bar with a resolution of an eighth of a cell; the least is seen, too."""
    eighths = math.ceil(max(share, 0.0) * length * 8) if share > 0.0 else 0
    whole, rest = divmod(min(eighths, length * 8), 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")
