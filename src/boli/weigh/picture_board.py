"""What fits, as a board: contexts across, requests down, and the line where memory ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from boli.weigh.amount import readable_bytes
from boli.weigh.picture import Picture
from boli.weigh.picture_matrices import WIDTH

_MARGIN = 24.0
_LEFT = 130.0
_ROW: Final = 40.0
_TIGHT: Final = 0.9  # of the memory: from here on it is tight


def draw_board(
    name: str,
    device: str,
    memory: int,
    contexts: Sequence[int],
    requests: Sequence[int],
    totals: Mapping[tuple[int, int], int],
) -> Picture:
    """Bytes for each context and number of requests, beside the memory of a device.

    Args:
        name: The model's.
        device: The device's.
        memory: Its bytes.
        contexts: Positions of a request, ascending.
        requests: How many at once, ascending.
        totals: Bytes of everything, by context and requests.
    """
    picture = Picture(f"What of {name} fits into {device}", WIDTH)
    picture.text(_MARGIN, 34, f"{name} on {device}: what fits", size=17, bold=True)
    picture.legend(
        _MARGIN,
        58,
        [
            ("fits", f"fits into {readable_bytes(memory)}"),
            ("tight", f"tight: more than {_TIGHT:.0%}"),
            ("over", "does not fit"),
        ],
    )
    top = 104.0
    step = (WIDTH - _MARGIN - _LEFT) / max(len(contexts), 1)
    for column, context in enumerate(contexts):
        x = _LEFT + column * step + step / 2
        picture.text(x, top - 10, f"{context:,}", anchor="middle", kind="faint")
    picture.text(_MARGIN, top - 10, "context →", kind="faint")
    for line, count in enumerate(requests):
        y = top + line * _ROW
        words = "request" if count == 1 else "requests"
        picture.text(_LEFT - 12, y + _ROW / 2 + 4, f"{count:,} {words}", anchor="end", kind="faint")
        for column, context in enumerate(contexts):
            size = totals[context, count]
            kind = "over" if size > memory else "tight" if size > _TIGHT * memory else "fits"
            x = _LEFT + column * step
            tip = f"{count:,} × {context:,} positions: {readable_bytes(size)}"
            picture.rectangle(x, y, step, _ROW, kind, tip=tip, edge=1.5)
            ink = "faint" if kind == "over" else "dark"
            picture.text(x + step / 2, y + _ROW / 2 + 4, _short(size), anchor="middle", kind=ink, size=12)
    _contour(picture, top, step, memory, contexts, requests, totals)
    picture.height = top + len(requests) * _ROW + _MARGIN
    return picture


def _contour(
    picture: Picture,
    top: float,
    step: float,
    memory: int,
    contexts: Sequence[int],
    requests: Sequence[int],
    totals: Mapping[tuple[int, int], int],
) -> None:
    """The border between what fits and what does not, as a staircase."""
    points: list[tuple[float, float]] = []
    for line, count in enumerate(requests):
        fitting = sum(totals[context, count] <= memory for context in contexts)
        x, y = _LEFT + fitting * step, top + line * _ROW
        points += [(x, y), (x, y + _ROW)]
    if any(size <= memory for size in totals.values()) and any(size > memory for size in totals.values()):
        picture.line(points, weight=2.5)


def _short(size: int) -> str:
    """A size in few characters: `4.6 GiB`."""
    for unit, step in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if size >= step:
            value = size / step
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{size:,} B"
