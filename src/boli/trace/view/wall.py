"""The logit lens: what the model would have said, had it stopped after each layer.

The residual stream after a layer goes through the final norm and the head as if it were the last one's.
Early layers were not trained for that; so what they say is a hint at what is known there, not a thought.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from boli.trace.view.numbers import percent
from boli.trace.view.parts import Column, Grid, Part, Prose, Table
from boli.trace.view.reading import Document, Reading
from boli.trace.view.shown import token_text


def film_wall(reading: Reading, steps: Sequence[int], *, brief: bool = False) -> Iterator[Part]:
    """Layers below each other, decisions side by side.

    Args:
        reading: Of the trace.
        steps: Which decisions.
        brief: Leave out layers in which nothing is decided.
    """
    say, lenses = reading.say, [reading.decisions[step]["lens"] for step in steps]
    count = len(reading.layers)
    leads = {lens["first_leads"] for lens in lenses} - {None}
    kept = [n for n in range(count) if not brief or n in leads or n in {0, count - 1} or n + 1 in leads]
    rows: list[str] = []
    values: list[list[float | None]] = []
    texts: list[list[str]] = []
    outlined: set[tuple[int, int]] = set()
    for place, layer in enumerate(kept):
        if place and layer != kept[place - 1] + 1:
            rows.append("⋮")
            values.append([None] * len(lenses))
            texts.append([""] * len(lenses))
        rows.append(f"L{layer}")
        values.append([_best(lens, layer)["probability"] for lens in lenses])
        texts.append([token_text(_best(lens, layer)["text"]) for lens in lenses])
        outlined |= {(len(rows) - 1, n) for n, lens in enumerate(lenses) if lens["first_leads"] == layer}
    yield Grid(rows, [f"#{step}" for step in steps], values, texts, frozenset(outlined))
    yield Prose(
        say(
            "Each cell: the likeliest token if the model stopped there, tinted by how sure it is. "
            "Outlined: from here "
            "on the token that was chosen leads to the end.",
            "每格：若停在这一层，最可能的词元，深浅表示把握大小。加框处：最终选中的词元从这一层起领先到底。",
        )
        + (say(" ⋮ stands for layers in between.", " ⋮ 表示略去的层。") if "⋮" in rows else ""),
        faint=True,
    )


def lens_table(reading: Reading, step: int) -> Iterator[Part]:
    """One decision: the likeliest tokens after each layer, and the rank of the one that won."""
    say, decision = reading.say, reading.decisions[step]
    lens = decision["lens"]
    rows = []
    for layer, top in enumerate(lens["top"][: len(reading.layers)]):
        likely = "  ".join(f"{token_text(each['text'])} {percent(each['probability'])}" for each in top[:3])
        mark = "▸" if layer == lens["first_leads"] else ""
        rows.append(
            [
                f"L{layer}", mark, str(lens["rank"][layer] + 1),
                percent(lens["probability"][layer]), likely,
            ]
        )  # fmt: skip
    first = lens["first_leads"]
    yield Table(
        [
            Column(say("after", "之后")), Column(""), Column(say("rank", "名次"), numeric=True),
            Column(f"p({reading.chosen(step)})", numeric=True), Column(say("likeliest", "最可能的词元")),
        ],
        rows,
        frozenset() if first is None else frozenset({first}),
    )  # fmt: skip


def _best(lens: Document, layer: int) -> Document:
    best: Document = lens["top"][layer][0]
    return best
