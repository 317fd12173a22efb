"""Bytes by number format as a treemap: which types a file is really made of, and what is in which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from boli.weigh.amount import readable_bytes
from boli.weigh.parts import percent
from boli.weigh.picture import TYPE_COLOURS, Picture, breadth
from boli.weigh.picture_matrices import WIDTH, symbol
from boli.weigh.weights import WeightsAccount

_MARGIN = 24.0
_HEIGHT: Final = 340.0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float


def draw_bytes(weights: WeightsAccount, name: str) -> Picture:
    """Every kind of weight as an area, coloured by number format."""
    whole = int(weights.bytes.value)
    picture = Picture(f"The bytes of {name} by number format", WIDTH, 92 + _HEIGHT + _MARGIN)
    picture.text(_MARGIN, 34, f"{readable_bytes(whole)} by number format", size=17, bold=True)
    sums = [(kind, size) for kind, size in weights.by_type.items() if size]
    picture.legend(
        _MARGIN, 58, [(_colour(n), f"{kind} {percent(size, whole)}") for n, (kind, size) in enumerate(sums)]
    )
    page = Box(_MARGIN, 74, WIDTH - 2 * _MARGIN, _HEIGHT)
    types = squarified([size for _, size in sums], page)
    for number, ((kind, _), area) in enumerate(zip(sums, types, strict=True)):
        roles: dict[str, int] = {}
        for row in weights.model_rows:
            if row.type == kind and row.bytes:
                roles[row.role] = roles.get(row.role, 0) + row.bytes
        ordered = sorted(roles.items(), key=lambda item: -item[1])
        for (role, size), box in zip(ordered, squarified([size for _, size in ordered], area), strict=True):
            label = symbol(role)
            tip = f"{kind} {label}: {readable_bytes(size)}, {percent(size, whole)}"
            picture.rectangle(box.x, box.y, box.width, box.height, _colour(number), tip=tip, edge=1.5)
            _label(picture, box, [label, f"{kind} {percent(size, whole)}"])
    return picture


def _colour(number: int) -> str:
    return f"type{min(number, TYPE_COLOURS - 1)}"


def _label(picture: Picture, box: Box, lines: Sequence[str]) -> None:
    """The lines that there is room for."""
    for number, line in enumerate(lines):
        if box.height > 20 + 16 * number and 12 * breadth(line) < box.width - 10:
            y = box.y + 17 + 16 * number
            picture.text(box.x + 7, y, line, kind="dark", bold=number == 0)


def squarified(sizes: Sequence[float], page: Box) -> list[Box]:
    """Boxes with areas in proportion to `sizes`, each as square as the others allow.

    Bruls, Huizing and van Wijk 2000, "Squarified Treemaps".

    Args:
        sizes: Positive, the largest first.
        page: What they fill.
    """
    boxes: list[Box] = []
    scale = page.width * page.height / sum(sizes) if sizes else 0.0
    areas = [size * scale for size in sizes]
    while areas:
        side = min(page.width, page.height)
        taken = 1
        while taken < len(areas) and _worst(areas[: taken + 1], side) <= _worst(areas[:taken], side):
            taken += 1
        row, areas = areas[:taken], areas[taken:]
        thickness = sum(row) / side if side else 0.0
        place = 0.0
        for area in row:
            length = area / thickness if thickness else 0.0
            if page.width >= page.height:  # a column at the left
                boxes.append(Box(page.x, page.y + place, thickness, length))
            else:
                boxes.append(Box(page.x + place, page.y, length, thickness))
            place += length
        if page.width >= page.height:
            page = Box(page.x + thickness, page.y, max(page.width - thickness, 0.0), page.height)
        else:
            page = Box(page.x, page.y + thickness, page.width, max(page.height - thickness, 0.0))
    return boxes


def _worst(areas: Sequence[float], side: float) -> float:
    """The greatest ratio of sides in a row along `side`."""
    row = sum(areas)
    if not side or not min(areas):
        return float("inf")
    return max(side * side * max(areas) / row**2, row**2 / (side * side * min(areas)))
