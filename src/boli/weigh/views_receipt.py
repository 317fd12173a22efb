"""The receipt in a terminal: numbers to the byte, and bars with an outline for what was predicted."""

from __future__ import annotations

from typing import Final

from boli.weigh.amount import readable_bytes
from boli.weigh.parts import percent
from boli.weigh.receipt import CLOSED, Measured, Receipt
from boli.weigh.views import Column, Section, Table

_BAR: Final = 14  # characters
_FULL, _EMPTY, _MARK = "█", "░", "▏"


def view_receipt(receipt: Receipt) -> Section:
    """Predicted, allocated and resident by category; predicted and measured speed."""
    most = max([receipt.process, *(max(line.allocated, line.held) for line in receipt.lines)], default=1)
    rows = []
    for line in receipt.lines:
        predicted = line.predicted
        rows.append(
            [
                line.category,
                "-" if predicted is None else f"{predicted.mark} {predicted.value:,}",
                f"{line.allocated:,}",
                "-" if line.resident is None else f"{line.resident:,}",
                bar(line.held, line.allocated, None if predicted is None else predicted.value, most),
            ]
        )
    rows.append(
        ["unaccounted", "-", "-", f"{receipt.unaccounted:,}", bar(receipt.unaccounted, 0, None, most)]
    )
    predicted_total = receipt.predicted
    rows.append(
        [
            "process",
            f"{predicted_total.mark} {predicted_total.value:,}",
            f"{receipt.allocated:,}",
            f"{receipt.process:,}",
            bar(receipt.process, 0, predicted_total.value, most),
        ]
    )
    columns = [
        Column("bytes"), Column("predicted", numeric=True), Column("allocated", numeric=True),
        Column("resident", numeric=True), Column("bar"),
    ]  # fmt: skip
    tables = [Table(columns, rows)]
    if receipt.speeds:
        tables.append(_speeds(receipt.speeds))
    share = percent(abs(receipt.unaccounted), receipt.process)
    verdict = (
        f"closed: {share} of the process is unaccounted for"
        if receipt.closed
        else f"open: {share} of the process is unaccounted for, more than {CLOSED:.0%}"
    )
    return Section(
        title=f"Receipt of {receipt.name}",
        facts=[
            ("predicted", f"{predicted_total.mark} {predicted_total.readable()}"),
            ("process", f"! {readable_bytes(receipt.process)}"),
            ("books", verdict),
        ],
        tables=tables,
        notes=[f"bar: {_FULL} in memory, {_EMPTY} allocated and never touched, {_MARK} predicted"],
        explained=[(line.category, line.predicted) for line in receipt.lines if line.predicted is not None],
    )


def _speeds(speeds: tuple[Measured, ...]) -> Table:
    """Rates, and by how much the best guess was off."""
    columns = [
        Column("tokens/s"),
        *(Column(name, numeric=True) for name in ("low", "best", "high", "ceiling", "measured", "off by")),
    ]
    rows = []
    for each in speeds:
        phase = each.predicted
        rates = [phase.low, phase.best, phase.high, phase.ceiling]
        cells = ["-" if rate is None else f"{rate.mark} {rate.value:,.1f}" for rate in rates]
        best = phase.best
        off = "-" if best is None else f"{100 * (each.tokens_per_s / best.value - 1):+.0f} %"
        rows.append([each.phase, *cells, f"! {each.tokens_per_s:,.1f}", off])
    return Table(columns, rows)


def bar(held: float, allocated: float, predicted: float | None, most: float) -> str:
    """A bar of characters: what is held, then what is allocated and not touched; a mark at the prediction.

    Args:
        held: Bytes in memory; what is below zero is not drawn.
        allocated: Bytes in the ledger.
        predicted: Where the mark stands, or None.
        most: Bytes of a whole bar.
    """

    def cells(size: float) -> int:
        return max(0, min(_BAR, round(_BAR * size / most))) if most > 0 else 0

    full = cells(held)
    drawn = _FULL * full + _EMPTY * max(0, cells(allocated) - full)
    if predicted is None:
        return drawn
    place = cells(predicted)
    return drawn.ljust(place)[:place] + _MARK + drawn[place:] if place else _MARK + drawn
