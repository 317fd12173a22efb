"""Films, walls, heat maps, rulers and bars as SVG, in the house's picture style."""

from __future__ import annotations

from html import escape
from typing import Final

from boli.trace.view.parts import Bars, Film, Grid, Part, Ruler
from boli.weigh.picture import Picture, breadth, style

WIDTH: Final = 960.0
_MARGIN: Final = 24.0
_DEEPEST: Final = 0.72  # of a tint: letters on it can still be read, on light ground and dark
_ROW: Final = 22.0
_SIZE: Final = 12.0  # of letters
_HEAT_CELL: Final = (3.0, 64.0)
_WALL_CELL: Final = (58.0, 150.0)


class TracePicture(Picture):
    """A picture with tinted cells, and none of its own style sheet where it is part of a page."""

    __slots__ = ()

    def cell(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        value: float,
        *,
        tip: str = "",
        outlined: bool = False,
    ) -> None:
        """A rectangle as deep as a value from 0 to 1; outlined if it stands out."""
        share = min(max(value, 0.0), 1.0)
        edge = ' class="line" stroke-width="1.6"' if outlined else ""
        self._shape(
            f'<rect{edge} x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'fill="#4c86c6" fill-opacity="{_DEEPEST * share:.3f}"',
            "rect",
            tip,
        )

    def embedded(self) -> str:
        """The picture inside a page that has the style sheet of `stylesheet` already."""
        return (
            f'<svg class="boli" role="img" viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
            f'width="{self.width:.0f}" height="{self.height:.0f}"><title>{escape(self.title)}</title>'
            f'<rect class="ground" width="100%" height="100%"/>{"".join(self._parts)}</svg>'
        )


def stylesheet() -> str:
    """What all pictures of a page share."""
    return style()


def draw(part: Part, title: str, *, heading: str = "", note: str = "") -> TracePicture | None:
    """A part as a picture; None if it is better told in words.

    Args:
        part: Of a chapter.
        title: For those who hear it read.
        heading: What stands above it.
        note: What stands below it.
    """
    picture = TracePicture(title, WIDTH)
    picture.height = 12.0
    if heading:
        picture.text(_MARGIN, 34, heading, size=17, bold=True, most=WIDTH - 2 * _MARGIN)
        picture.height = 50.0
    match part:
        case Film():
            _film(picture, part)
        case Grid(texts=None):
            _heat(picture, part)
        case Grid():
            _wall(picture, part)
        case Ruler():
            _ruler(picture, part)
        case Bars():
            _bars(picture, part)
        case _:
            return None
    if note:
        picture.text(_MARGIN, picture.height + 16, note, size=11, kind="faint", most=WIDTH - 2 * _MARGIN)
        picture.height += 20
    picture.height += 12
    return picture


def _film(picture: Picture, film: Film) -> None:
    assert isinstance(picture, TracePicture)
    widest = max(_SIZE * breadth(text) for frame in film.frames for text in (frame.text, *frame.notes))
    width = min(max(widest + 14, 44.0), 130.0)
    across = int((WIDTH - 2 * _MARGIN + 4) // (width + 4))
    below = max(len(frame.notes) for frame in film.frames)
    for number, frame in enumerate(film.frames):
        x = _MARGIN + (number % across) * (width + 4)
        if number and number % across == 0:
            picture.height += 34 + 14 * below
        y = picture.height
        if frame.strength is not None:
            picture.cell(x, y, width, 26, frame.strength, tip=f"{frame.text}: {', '.join(frame.notes)}")
        picture.text(x + width / 2, y + 18, frame.text, size=14, anchor="middle", most=width - 6)
        for line, note in enumerate(frame.notes):
            picture.text(x + width / 2, y + 40 + 14 * line, note, size=10.5, kind="faint", anchor="middle")
    picture.height += 34 + 14 * below


def _wall(picture: Picture, grid: Grid) -> None:
    assert isinstance(picture, TracePicture)
    texts = grid.texts or ()
    left = _MARGIN + max(_SIZE * breadth(row) for row in grid.rows) + 10
    room = WIDTH - left - _MARGIN
    least, most = _WALL_CELL
    width = min(max(room / len(grid.columns), least), most)
    across = int(room // width)
    for first in range(0, len(grid.columns), across):
        places = range(first, min(first + across, len(grid.columns)))
        for n in places:
            x = left + (n - first) * width
            picture.text(
                x + width / 2, picture.height + 14, grid.columns[n], size=11, kind="faint", anchor="middle"
            )
        picture.height += 20
        for row, name in enumerate(grid.rows):
            y = picture.height
            picture.text(left - 8, y + 15, name, size=11, kind="faint", anchor="end")
            for n in places:
                value, text = grid.values[row][n], texts[row][n]
                x = left + (n - first) * width
                if value is None:
                    continue
                tip = f"{grid.columns[n]}, {name}: {text} {100 * value:.2f} %"
                outlined = (row, n) in grid.outlined
                picture.cell(x + 1, y + 1, width - 2, _ROW - 2, value / grid.most, tip=tip, outlined=outlined)
                picture.text(
                    x + width / 2, y + 15, text, anchor="middle", most=width - 8, bold=outlined
                )  # fmt: skip
            picture.height += _ROW
        picture.height += 8
    picture.width = min(left + min(across, len(grid.columns)) * width + _MARGIN, WIDTH)


def _heat(picture: Picture, grid: Grid) -> None:
    assert isinstance(picture, TracePicture)
    left = _MARGIN + min(max(_SIZE * breadth(row) for row in grid.rows), 160.0) + 10
    aside = 60.0 if grid.aside else 0.0
    least, most = _HEAT_CELL
    room = WIDTH - left - _MARGIN - aside
    width = min(max(room / len(grid.columns), least), most)
    places = list(range(len(grid.columns)))
    if len(places) * width > room:  # the first and the last ones
        places = [0, *places[len(places) - int(room / width) + 1 :]]
    height = min(_ROW, max(width, 14.0))
    titled = width >= 24
    for index, n in enumerate(places):
        if titled or n % 10 == 0:
            label = grid.columns[n] if titled else str(n)
            x = left + index * width + (width / 2 if titled else 0.0)
            anchor = "middle" if titled else "start"
            picture.text(
                x,
                picture.height + 14,
                label,
                size=11,
                kind="faint",
                anchor=anchor,
                most=width if titled else 0,
            )
    right = left + len(places) * width + aside - 8
    if grid.aside:
        picture.text(right, picture.height + 14, grid.aside[0], size=11, kind="faint", anchor="end")
    picture.height += 20
    for row, name in enumerate(grid.rows):
        y = picture.height
        picture.text(
            left - 8, y + height / 2 + 4, name, size=11, kind="faint", anchor="end", most=left - _MARGIN
        )
        for index, n in enumerate(places):
            value = grid.values[row][n]
            if value is None:
                continue
            tip = f"{name} → {n} {grid.columns[n]}: {100 * value:.2f} %"
            share = value / grid.most if grid.most else 0.0
            x = left + index * width
            picture.cell(x, y, width - 0.5, height - 1, share, tip=tip)
            if width >= 30 and value >= 0.005:
                picture.text(
                    x + width / 2, y + height / 2 + 4, f"{100 * value:.0f}", size=10.5, anchor="middle"
                )
        if grid.aside:
            picture.text(right, y + height / 2 + 4, grid.aside[1][row], size=11, anchor="end")
        picture.height += height
    picture.width = max(right + _MARGIN, 320.0) if grid.aside else picture.width
    picture.height += 4


def _ruler(picture: Picture, ruler: Ruler) -> None:
    assert isinstance(picture, TracePicture)
    long, y = WIDTH - 2 * _MARGIN, picture.height + 4
    for number, bucket in enumerate(ruler.buckets):
        x, width = _MARGIN + bucket.low * long, (bucket.high - bucket.low) * long
        tip = f"{bucket.text}: {bucket.low:.4f} to {bucket.high:.4f}"
        hit = number == ruler.hit
        picture.cell(x, y, width, 28, 1.0 if hit else (0.2, 0.4)[number % 2], tip=tip, outlined=hit)
        picture.text(x + width / 2, y + 19, bucket.text, anchor="middle", most=max(width - 6, 1), bold=hit)
    x = _MARGIN + ruler.mark * long
    picture.line([(x, y - 4), (x, y + 38)], weight=2)
    told = f"u = {ruler.mark:.6f} → {ruler.buckets[ruler.hit].text}"
    aside, anchor = (-6, "end") if ruler.mark > 0.85 else (6, "start")
    picture.text(x + aside, y + 44, told, bold=True, anchor=anchor)
    picture.height += 54


def _bars(picture: Picture, bars: Bars) -> None:
    assert isinstance(picture, TracePicture)
    name = max(_SIZE * breadth(text) for text in (bars.title, *(row.name for row in bars.rows))) * 1.08 + 12
    columns = [
        max(_SIZE * breadth(text) for text in column) * 1.05 + 18
        for column in zip(bars.columns, *(row.cells for row in bars.rows), strict=True)
    ]
    ends = [_MARGIN + name + sum(columns[: n + 1]) for n in range(len(columns))]
    left = (ends[-1] if ends else _MARGIN + name) + 16
    room = WIDTH - left - _MARGIN
    picture.text(_MARGIN, picture.height + 15, bars.title, size=11, kind="faint")
    for title, x in zip(bars.columns, ends, strict=True):
        picture.text(x, picture.height + 15, title, size=11, kind="faint", anchor="end")
    picture.height += 20
    most = max((row.share for row in bars.rows), default=1.0) or 1.0
    for row in bars.rows:
        y = picture.height
        picture.text(_MARGIN, y + 15, row.name, bold=row.strong)
        for text, x in zip(row.cells, ends, strict=True):
            picture.text(x, y + 15, text, anchor="end", bold=row.strong)
        if row.share > 0.0:
            picture.cell(
                left,
                y + 3,
                max(row.share / most * room, 1.0),
                15,
                1.0,
                tip=f"{row.name}: {' '.join(row.cells)}",
            )
        picture.height += _ROW
