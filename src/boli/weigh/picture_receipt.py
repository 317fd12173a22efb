"""The receipt as a picture: an outline for what was predicted, solid for what was measured."""

from __future__ import annotations

from typing import Final

from boli.weigh.amount import readable_bytes
from boli.weigh.parts import percent
from boli.weigh.picture import Picture, breadth
from boli.weigh.picture_matrices import WIDTH
from boli.weigh.receipt import Measured, Receipt

_MARGIN = 24.0
_LEFT, _RIGHT = 190.0, 210.0
_ROW: Final = 30.0
_COLOURS: Final = {"kv_cache": "type1", "workspace": "type2", "text": "type3", "runtime": "type7"}


def draw_receipt(receipt: Receipt) -> Picture:
    """A row for each category and one for the process; below them the speeds on their rooflines."""
    picture = Picture(f"The receipt of {receipt.name}", WIDTH)
    state = "the books are closed" if receipt.closed else "the books are open"
    share = percent(abs(receipt.unaccounted), receipt.process)
    picture.text(_MARGIN, 34, f"{receipt.name}: predicted and measured", size=17, bold=True)
    picture.text(_MARGIN, 54, f"{state}: {share} of the process is unaccounted for", kind="faint")
    rows = [
        (line.category, line.predicted.value if line.predicted else None, line.allocated, line.held)
        for line in receipt.lines
    ]
    rows.append(("unaccounted", None, 0, max(receipt.unaccounted, 0)))
    rows.append(("process", receipt.predicted.value, 0, receipt.process))
    most = max(max(allocated, held, predicted or 0) for _, predicted, allocated, held in rows)
    scale = (WIDTH - _LEFT - _RIGHT) / max(most, 1)
    y = 76.0
    for name, predicted, allocated, held in rows:
        _bar(picture, y, scale, name, predicted, allocated, held)
        y += _ROW
    picture.text(
        _LEFT, y + 14, "outline: predicted   solid: in memory   pale: allocated, never touched", kind="faint"
    )
    y += 34
    for each in receipt.speeds:
        y = _speed(picture, y, each)
    picture.height = y + _MARGIN
    return picture


def _bar(
    picture: Picture,
    y: float,
    scale: float,
    name: str,
    predicted: float | None,
    allocated: float,
    held: float,
) -> None:
    """One row: the pale bar of what is allocated, the solid one of what is held, the outline."""
    colour = _COLOURS.get(name, "type0" if name.startswith("weights/") else "norms")
    tip = f"{name}: {readable_bytes(held)} in memory, {readable_bytes(allocated)} allocated"
    picture.text(_LEFT - 12, y + 15, name, anchor="end")
    picture.rectangle(_LEFT, y + 3, max(allocated * scale, 0.0), 14, "over", tip=tip)
    picture.rectangle(_LEFT, y + 3, held * scale, 14, colour, tip=tip)
    end = max(allocated, held) * scale
    if predicted is not None:
        right = predicted * scale
        edge = [(0.0, 0.0), (right, 0.0), (right, 20.0), (0.0, 20.0), (0.0, 0.0)]
        picture.line([(_LEFT + x, y + down) for x, down in edge], weight=1.4)
        end = max(end, right)
    label = readable_bytes(held)
    if predicted:
        label += f"  {_off(allocated or held, predicted)}"
    picture.text(_LEFT + end + 10, y + 15, label, size=11, kind="faint")


def _off(measured: float, predicted: float) -> str:
    """How far a prediction was off."""
    if measured == predicted:
        return "exact"
    share = 100 * (measured / predicted - 1)
    return f"{share:+.1f} %" if abs(share) >= 0.05 else "within 0.1 %"


def _speed(picture: Picture, y: float, each: Measured) -> float:
    """A line from zero to the ceiling: the band that was expected, a ring for the best guess, a dot."""
    phase = each.predicted
    if phase.low is None or phase.best is None or phase.high is None or phase.ceiling is None:
        return y
    most = max(phase.ceiling.value, each.tokens_per_s)
    scale = (WIDTH - _LEFT - _RIGHT) / most
    middle = y + 12
    picture.text(_LEFT - 12, middle + 4, f"{each.phase}, tokens/s", anchor="end")
    picture.line([(_LEFT, middle), (_LEFT + phase.ceiling.value * scale, middle)], thin=True)
    picture.rectangle(
        _LEFT + phase.low.value * scale, middle - 5, (phase.high.value - phase.low.value) * scale, 10, "over"
    )
    picture.dot(_LEFT + phase.best.value * scale, middle, 5, hollow=True)
    picture.dot(_LEFT + each.tokens_per_s * scale, middle, 5)
    # Short enough to stand beside the line.
    label = f"measured {_rate(each.tokens_per_s)}, predicted {_rate(phase.best.value)}"
    x = min(_LEFT + most * scale + 10, WIDTH - _MARGIN - 11 * breadth(label))
    picture.text(x, middle + 4, label, size=11, kind="faint")
    return y + _ROW


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:,.0f}" if tokens_per_s >= 100 else f"{tokens_per_s:.1f}"
