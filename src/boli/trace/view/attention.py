"""Where heads look: one row a head or one row a decision, never a mean over heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from boli.errors import UsageError
from boli.trace.view.numbers import percent
from boli.trace.view.parts import Bar, Bars, Grid, Heading, Part, Prose
from boli.trace.view.reading import Float32, Reading

_DECISIONS: Final = 24  # rows of a head's matrix
_LOOKS: Final = 12  # positions that are listed


def heads_grid(reading: Reading, step: int, layer: int) -> Iterator[Part]:
    """All heads of a layer for one decision: heads × positions."""
    say, rows = reading.say, reading.attention(step)
    if rows is None:
        yield _missing(reading)
        return
    weights = rows[layer]
    yield grid(reading, [say(f"head {n}", f"头 {n}") for n in range(len(weights))], weights)
    yield _legend(reading)


def head_walk(reading: Reading, step: int, layer: int, head: int) -> Iterator[Part]:
    """One head: where this decision's token looked, and where those of the other decisions did.

    Raises:
        UsageError: The trace has no such head, or no attention.
    """
    say = reading.say
    rows = reading.attention(step)
    if rows is None:
        raise UsageError(
            "this trace has no attention",
            cause=f"it holds a {reading.document['detail']}",
            remedy="trace again with --detail rows",
        )
    if not 0 <= head < rows.shape[1]:
        raise UsageError(
            f"there is no head {head} in layer {layer}", remedy=f"it has heads 0 to {rows.shape[1] - 1}"
        )
    at = reading.decisions[step]["at"]
    yield Heading(
        say(
            f"Layer {layer}, head {head}: where {reading.token(at)} looked",
            f"第 {layer} 层，头 {head}：{reading.token(at)} 在看哪里",
        )
    )
    weights = rows[layer, head]
    order = np.argsort(-weights, kind="stable")[:_LOOKS]
    bars = [
        Bar(
            f"{position}  {reading.token(int(position))}",
            float(weights[position]),
            (percent(float(weights[position])),),
        )
        for position in order
        if weights[position] > 0 and (position or not reading.hide_sink)
    ]
    left = 1.0 - sum(bar.share for bar in bars)
    if left > 0.0005 and len(weights) > len(bars):
        count = len(weights) - len(bars)
        bars.append(Bar(say(f"{count} others", f"其余 {count} 个"), left, (percent(left),)))
    yield Bars(say("position", "位置"), (say("share", "占比"),), bars)
    steps = [n for n in range(len(reading.decisions)) if reading.decisions[n].get("attention") is not None]
    first = max(min(steps.index(step) - _DECISIONS // 2, len(steps) - _DECISIONS), 0)
    steps = steps[first : first + _DECISIONS]
    yield Heading(say("The same head in other decisions", "同一个头，在其他几步里"), 2)
    matrix = []
    for other in steps:
        whole = reading.attention(other)
        if whole is not None:
            matrix.append(whole[layer, head])
    yield grid(reading, [f"#{n} {reading.token(reading.decisions[n]['at'])}" for n in steps], matrix)
    yield _legend(reading)


def grid(reading: Reading, names: Sequence[str], rows: Sequence[Float32] | Float32) -> Grid:
    """Rows of attention as a heat map.

    The first token often takes most of a row because a head found nothing to look at. Its share stands
    beside the map, and the tint is scaled to what the other positions get.
    """
    length = max(len(row) for row in rows)
    values = [[float(v) for v in row] + [None] * (length - len(row)) for row in rows]
    if reading.hide_sink:
        values = [[None, *row[1:]] for row in values]
    others = [float(np.max(row[1:])) for row in rows if len(row) > 1]
    most = max(others, default=1.0) or 1.0
    first = [percent(float(row[0])) for row in rows]
    return Grid(
        names,
        [reading.token(position) for position in range(length)],
        values,
        most=most,
        aside=(reading.say("first", "首个"), first),
    )


def _legend(reading: Reading) -> Prose:
    return Prose(
        reading.say(
            "Columns are positions. Tints are scaled to the largest share outside of the first token, "
            "whose share "
            "stands at the right. Weights, not importance.",
            "每列一个位置。深浅按首个词元以外的最大占比来定，首个词元的占比另列在右边。这是权重，"
            "不等于重要性。",
        ),
        faint=True,
    )


def _missing(reading: Reading) -> Prose:
    return Prose(
        reading.say(
            "Attention is not in this trace; --detail rows keeps it.",
            "这份记录没有保存注意力，加 --detail rows 才有。",
        ),
        faint=True,
    )
