"""Matrices drawn to scale: the whole model on one page, and a layer of each kind with names.

Within a drawing one pixel stands for equally many numbers everywhere. Matrices that are too tall, such
as embeddings, are cut into strips that stand side by side; so one sees who takes how much of the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from boli.weigh.amount import plain
from boli.weigh.parts import parts_of, percent
from boli.weigh.picture import Picture, breadth
from boli.weigh.weights import WeightRow, WeightsAccount, part_of

WIDTH: Final = 960.0
_MARGIN = 24.0
_PAGE = 420.0  # greatest height of the whole model
_LAYER = 170.0  # greatest height of the matrices of one layer
_GAP = 2.0  # between the layers of the whole model
_SMALLEST = 1000  # matrices of less than a thousandth of a layer's largest are too small to draw
_BOLD = 1.12  # how much wider bold text is

_SYMBOLS: Final[Mapping[str, str]] = {
    "q": "W_q", "k": "W_k", "v": "W_v", "o": "W_o", "qkv": "W_qkv",
    "q_a": "W_q_down", "q_b": "W_q_up", "kv_a": "W_kv_down", "kv_b": "W_kv_up",
    "cross_q": "cross W_q", "cross_k": "cross W_k", "cross_v": "cross W_v", "cross_o": "cross W_o",
    "gate": "W_gate", "up": "W_up", "down": "W_down", "gate_up": "W_gate_up",
    "expert_gate": "W_gate", "expert_up": "W_up", "expert_down": "W_down", "expert_gate_up": "W_gate_up",
    "shared_gate": "shared W_gate", "shared_up": "shared W_up", "shared_down": "shared W_down",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Block:
    """A matrix in strips: `strips` of them, each `columns` wide, of `rows` together."""

    part: str
    rows: int
    columns: int
    strips: int = 1

    @property
    def width(self) -> float:
        return self.columns * self.strips

    @property
    def height(self) -> float:
        return self.rows / self.strips


@dataclass(frozen=True, slots=True)
class _Tile:
    """Blocks with their places, all in numbers and not yet in pixels."""

    places: tuple[tuple[_Block, float, float], ...]
    width: float
    height: float


def draw_matrices(weights: WeightsAccount, name: str) -> Picture:
    """The whole model to scale, then a layer of each kind with names."""
    picture = Picture(f"The matrices of {name}, to scale", WIDTH)
    _whole(picture, weights, name)
    kinds = list(_kinds(weights))
    scale = min((_layer_scale(rows) for _, rows in kinds), default=1.0)
    for title, rows in kinds:
        _layer(picture, title, rows, scale)
    picture.height += _MARGIN
    return picture


def _whole(picture: Picture, weights: WeightsAccount, name: str) -> None:
    """All matrices: what is outside the layers in strips, then layer by layer."""
    total = int(weights.parameters.value)
    picture.text(_MARGIN, 34, f"{name}: {total:,} parameters", size=17, bold=True)
    picture.text(_MARGIN, 53, "All matrices at one scale; equal areas are equally many.", kind="faint")
    shares = [(part.key, f"{part.name} {percent(part.parameters, total)}") for part in parts_of(weights)]
    picture.legend(_MARGIN, 77, shares)
    rows = [row for row in weights.model_rows if len(row.shape) > 1 and not row.tied_to]
    outside = [row for row in rows if row.layer is None]
    layers: dict[int, list[WeightRow]] = {}
    for row in rows:
        if row.layer is not None:
            layers.setdefault(row.layer, []).append(row)
    tiles = {layer: _tile(inside) for layer, inside in layers.items()}
    top, available = 92.0, WIDTH - 2 * _MARGIN
    scale = _largest_scale(outside, list(tiles.values()), available)
    x, height = _MARGIN, 0.0
    for row in outside:
        block = _cut(row, _PAGE / scale)
        _draw(picture, block, x, top, scale)
        _inscribe(picture, row, x, top, block.width * scale, weights)
        x += block.width * scale + _GAP
        height = max(height, block.height * scale)
    left, y = x, top
    tallest = 0.0
    for tile in tiles.values():
        if x > left and x + tile.width * scale > WIDTH - _MARGIN + 0.5:
            x, y, tallest = left, y + tallest + _GAP, 0.0
        for block, right, down in tile.places:
            _draw(picture, block, x + right * scale, y + down * scale, scale)
        x += tile.width * scale + _GAP
        tallest = max(tallest, tile.height * scale)
        height = max(height, y + tallest - top)
    picture.height = top + height


def _tile(rows: Sequence[WeightRow]) -> _Tile:
    """The matrices of one layer close together, in about a square."""
    side = math.sqrt(sum(math.prod(row.shape) for row in rows))
    tiles = []
    for stretch in (1.0, 1.1, 1.25, 1.4, 1.6):
        blocks = [_cut(row, side * stretch) for row in rows]
        tiles.append(_packed(blocks, max(side * stretch, *(block.width for block in blocks))))
    return min(tiles, key=lambda tile: tile.width * tile.height)


def _packed(blocks: Sequence[_Block], limit: float) -> _Tile:
    """Blocks at the highest free corner each, the leftmost of those; large ones first."""
    places: list[tuple[_Block, float, float]] = []
    corners = [(0.0, 0.0)]
    for block in sorted(blocks, key=lambda block: (-block.height, -block.width)):
        y, x = min(
            (y, x)
            for y, x in corners
            if (x == 0 or x + block.width <= limit) and not _overlaps(places, block, x, y)
        )
        places.append((block, x, y))
        bottom, right = y + block.height, x + block.width
        corners += [(y, right), (bottom, x), (bottom, 0.0)]
        corners += [(other, right) for _, _, other in places] + [(bottom, other) for _, other, _ in places]
    width = max(x + block.width for block, x, _ in places)
    return _Tile(tuple(places), width, max(y + block.height for block, _, y in places))


def _overlaps(places: Sequence[tuple[_Block, float, float]], block: _Block, x: float, y: float) -> bool:
    return any(
        x < left + other.width
        and left < x + block.width
        and y < top + other.height
        and top < y + block.height
        for other, left, top in places
    )


def _cut(row: WeightRow, most: float) -> _Block:
    """A matrix in as few strips as are not taller than `most`."""
    rows = math.prod(row.shape[:-1])
    return _Block(part_of(row.role), rows, row.shape[-1], max(1, math.ceil(rows / most)))


def _largest_scale(outside: Sequence[WeightRow], tiles: Sequence[_Tile], available: float) -> float:
    """Pixels of a number so that everything fits the page."""
    low, high = 1e-9, 1.0

    def fits(scale: float) -> bool:
        x = 0.0
        for row in outside:
            x += _cut(row, _PAGE / scale).width * scale + _GAP
        left, y, tallest = x, 0.0, 0.0
        for tile in tiles:
            if x > left and x + tile.width * scale > available + 0.5:
                x, y, tallest = left, y + tallest + _GAP, 0.0
            x += tile.width * scale + _GAP
            tallest = max(tallest, tile.height * scale)
            if x - _GAP > available + 0.5:
                return False
        return y + tallest <= _PAGE and left <= available

    for _ in range(50):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _draw(picture: Picture, block: _Block, x: float, y: float, scale: float) -> None:
    """A block, its strips told apart by thin lines where there is room for them."""
    width, height = block.columns * scale, block.height * scale
    edge = 0.5 if min(width, height) > 3 else 0
    for strip in range(block.strips):
        picture.rectangle(x + strip * width, y, width, height, block.part, edge=edge)


def _inscribe(
    picture: Picture, row: WeightRow, x: float, y: float, width: float, weights: WeightsAccount
) -> None:
    """What a matrix outside the layers is, where it is wide enough to write on."""
    if width < 110:
        return
    lines = [row.role.replace("_", " "), " × ".join(map(str, row.shape))]
    lines += ["also the head" for other in weights.model_rows if other.tied_to == row.name]
    for number, line in enumerate(lines):
        picture.text(x + 10, y + 22 + 17 * number, line, kind="dark", bold=number == 0, most=width - 16)


def _kinds(weights: WeightsAccount) -> Iterator[tuple[str, list[WeightRow]]]:
    """A layer of each kind, with a title that says how many are like it."""
    inside: dict[int, list[WeightRow]] = {}
    for row in weights.model_rows:
        if len(row.shape) > 1 and row.layer is not None:
            inside.setdefault(row.layer, []).append(row)
    alike: dict[tuple[object, ...], list[int]] = {}
    for layer, rows in sorted(inside.items()):
        most = max(row.parameters for row in rows)
        inside[layer] = [row for row in rows if row.parameters * _SMALLEST > most]
        alike.setdefault(tuple((row.role, row.shape) for row in inside[layer]), []).append(layer)
    for layers in alike.values():
        others = f": one of {len(layers)} like it" if len(layers) > 1 else ""
        yield f"Layer {layers[0]}{others}", inside[layers[0]]


def _layer_scale(rows: Sequence[WeightRow]) -> float:
    """Pixels of a number so that no matrix of a layer is too tall or too wide."""
    tallest, widest = max(row.shape[-2] for row in rows), max(row.shape[-1] for row in rows)
    return min(_LAYER / tallest, (WIDTH - 2 * _MARGIN) / 3 / widest)


def _layer(picture: Picture, title: str, matrices: Sequence[WeightRow], scale: float) -> None:
    """The matrices of one layer in rows, with names and shapes."""
    top = picture.height + 38
    picture.text(_MARGIN, top, title, size=14, bold=True)
    picture.text(_MARGIN + 14 * _BOLD * breadth(title) + 14, top, "rows × columns", size=11, kind="faint")
    x, y, tallest = _MARGIN, top + 32, 0.0
    for matrix in matrices:
        *several, rows, columns = matrix.shape
        above = symbol(matrix.role) + (f" ×{math.prod(several)}" if several else "")
        below = f"{rows} × {columns}"
        width, height = columns * scale, rows * scale
        slot = max(width, 12 * _BOLD * breadth(above), 10.5 * breadth(below)) + 18
        if x > _MARGIN and x + slot > WIDTH - _MARGIN + 18:
            x, y, tallest = _MARGIN, y + tallest + 30, 0.0
        tip = f"{matrix.name}: {below} = {plain(rows * columns)} parameters"
        picture.text(x, y - 7, above, bold=True)
        picture.rectangle(x, y, width, height, part_of(matrix.role), tip=tip)
        picture.text(x, y + height + 13, below, size=10.5, kind="faint")
        x, tallest = x + slot, max(tallest, height + 16)
    picture.height = y + tallest


def symbol(role: str) -> str:
    """What a role is called in pictures: `W_q`, `final norm`."""
    return _SYMBOLS.get(role, role.replace("_", " "))
