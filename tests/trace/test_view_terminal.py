"""A trace in a terminal: of any width, with and without colours, in both languages."""

from __future__ import annotations

import io
import re
import unicodedata
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from boli.errors import UsageError
from boli.trace.arrays import unpacked
from boli.trace.view.parts import Bars, Facts, Grid, Heading, Language, Prose, Ruler, Table
from boli.trace.view.reading import Reading
from boli.trace.view.terminal import chapters, print_walk
from trace_documents import HOSTILE, make

STYLE = re.compile(r"\x1b\[[0-9;]*m")
View = dict[str, int]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
TINTS = re.compile(r"[·░▒▓█▁▂▃▄▅▆▇▏▎▍▌▋▊▉\s]+")
VIEWS: list[View] = [{}, {"step": 0}, {"step": 5}, {"layer": 1}, {"step": 3, "layer": 2, "head": 1}]


def walk(
    document: dict[str, Any],
    width: int = 80,
    view: View | None = None,
    *,
    colours: bool = False,
    language: Language = "en",
) -> str:
    written = io.StringIO()
    console = Console(
        file=written,
        width=width,
        color_system="truecolor" if colours else None,
        force_terminal=colours,
        emoji=False,
    )
    asked = view or {}
    print_walk(
        document,
        console,
        step=asked.get("step"),
        layer=asked.get("layer"),
        head=asked.get("head"),
        language=language,
    )
    return written.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_no_line_is_wider_than_the_terminal(width: int, view: View) -> None:
    for document in (
        make(),
        make(chat=True, temperature=0.0, detail="full"),
        make(prompt=["<bos>", *"我爱你" * 60]),
    ):
        for language in LANGUAGES:
            for line in walk(document, width, view, language=language).split("\n"):
                assert cell_len(line) <= width, line


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_colours_only_add_styles(view: View) -> None:
    document = make()
    plain = walk(document, view=view)
    assert "\x1b" not in plain
    coloured = walk(document, view=view, colours=True)
    assert STYLE.search(coloured)
    bare = STYLE.sub("", coloured)
    assert "\x1b" not in bare
    said = TINTS.sub("", bare)
    for line in plain.split("\n"):
        assert TINTS.sub("", line) in said


def hostile() -> dict[str, Any]:
    """A document in which everything that comes from outside tries to act."""
    document = make(prompt=["<bos>", HOSTILE, "我"], answer=[HOSTILE + "!", "ok", HOSTILE + "?"], chat=True)
    document["model"] |= {"name": HOSTILE, "source": HOSTILE, "family": HOSTILE, "activation": HOSTILE}
    document["machine"]["cpu"] = HOSTILE
    document["text"]["messages"] = [{"role": HOSTILE, "content": HOSTILE}]
    document["proof"]["differences"] = [HOSTILE]
    for each in (*document["weights"], *document["stages"]):
        each |= {
            "name": HOSTILE,
            "equation": HOSTILE,
            "source": HOSTILE,
            "title": {"en": HOSTILE, "zh": HOSTILE},
        }
    for each in document["weights"]:
        each["type"] = HOSTILE
    return document


@pytest.mark.parametrize("view", [{}, {"step": 0}, {"layer": 1}, {"step": 1, "layer": 2, "head": 1}], ids=str)
def test_text_from_outside_is_shown_and_never_acts(view: View) -> None:
    for language in LANGUAGES:
        out = walk(hostile(), view=view, language=language)
        assert "␛" in out
        acting = {c for c in out if unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp", "Cs", "Co"}} - {"\n"}
        assert not acting


def test_a_long_run_does_not_drown_the_reader() -> None:
    document = make(layers=30, prompt=["<bos>", *"x" * 300], answer=[f"w{n}" for n in range(200)])
    assert len(walk(document).split("\n")) < 120
    assert "… and 160 more" in walk(document)


def test_a_run_without_an_answer_is_told() -> None:
    document = make()
    document["decisions"] = []
    out = walk(document)
    assert "Nothing was generated" in out


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"step": 6}, "there is no step 6"),
        ({"step": -1}, "there is no step -1"),
        ({"layer": 4}, "there is no layer 4"),
        ({"layer": 0, "head": 4}, "there is no head 4"),
        ({"head": 1}, "a head is one of a layer"),
        ({"layer": 0, "step": 9}, "there is no step 9"),
    ],
)
def test_what_is_not_there_is_named(view: View, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        walk(make(), view=view)


def test_a_summary_has_no_attention_and_says_so() -> None:
    document = make(detail="summary")
    assert "--detail rows keeps it" in walk(document, view={"layer": 1})
    with pytest.raises(UsageError, match="no attention"):
        walk(document, view={"layer": 1, "head": 0})


def parts(document: dict[str, Any], kind: type, **view: int) -> list[Any]:
    return [part for part in chapters(Reading(document), **view) if isinstance(part, kind)]


def test_the_wall_outlines_where_the_chosen_token_takes_the_lead() -> None:
    document = make(layers=6)
    wall = next(grid for grid in parts(document, Grid) if grid.texts)
    assert wall.outlined
    for row, column in wall.outlined:
        leads = document["decisions"][column]["lens"]["first_leads"]
        assert wall.rows[row] == f"L{leads}"
        assert wall.texts is not None
        assert wall.texts[row][column] == Reading(document).chosen(column)


def test_a_heads_row_is_the_documents_attention() -> None:
    document = make()
    grid = parts(document, Grid, step=2, layer=3)[0]
    weights = unpacked(document["decisions"][2]["attention"]["weights"], "attention")[3]
    assert grid.values == [[float(value) for value in row] for row in weights]
    assert grid.most == pytest.approx(float(weights[:, 1:].max()))


def test_the_sink_can_be_hidden() -> None:
    reading = Reading(make(), hide_sink=True)
    for view in ({"layer": 1}, {"step": 4, "layer": 2, "head": 0}):
        grid = next(part for part in chapters(reading, **view) if isinstance(part, Grid))
        assert all(row[0] is None for row in grid.values)
        assert grid.aside is not None
        assert all(share.endswith("%") for share in grid.aside[1])
    bars = next(part for part in chapters(reading, layer=2, head=0, step=4) if isinstance(part, Bars))
    assert not any(bar.name.startswith("0 ") for bar in bars.rows)
    assert sum(bar.share for bar in bars.rows) == pytest.approx(1.0, abs=0.01)  # the rest is named


def test_the_number_drawn_lies_in_the_bucket_that_it_hit() -> None:
    document = make(seed=11)
    for step, decision in enumerate(document["decisions"]):
        ruler = parts(document, Ruler, step=step)[0]
        bucket = ruler.buckets[ruler.hit]
        assert bucket.low <= ruler.mark < bucket.high
        assert bucket.text == Reading(document).chosen(step)
        assert ruler.mark == decision["sampler"]["uniform"]
        assert [each.low for each in ruler.buckets] == sorted(each.low for each in ruler.buckets)


def test_greedy_draws_nothing() -> None:
    document = make(temperature=0.0)
    assert not parts(document, Ruler, step=0)
    assert "nothing is drawn" in walk(document, view={"step": 0})


def test_the_books_of_a_token_close() -> None:
    from boli.trace.view.books import entries, head_weight

    reading = Reading(make())
    rows = entries(reading, 2)
    time = reading.decisions[2]["time"]
    assert sum(row.seconds for row in rows[1:-2]) == pytest.approx(sum(map(sum, time["layers"])))
    assert (rows[0].seconds, rows[-2].seconds) == (time["embedding"], time["head"])
    head = head_weight(reading)
    assert head is not None
    assert head["role"] == "embedding"  # the head is tied to it
    assert rows[-2].bytes == head["bytes"] > 0
    inside = sum(w["bytes"] for w in reading.document["weights"] if w["layer"] is not None)
    assert sum(row.bytes for row in rows[1:-2]) == inside


def test_full_detail_shows_numbers_of_vectors() -> None:
    document = make(detail="full")
    document["stages"][5]["values"] = ["q"]
    facts = [row for part in parts(document, Facts, layer=2) for row in part.rows]
    q = unpacked(document["decisions"][0]["values"]["q"], "q")[2]
    assert any(name == "q" and f"{q[0]:+.3f}" in said and "[64]" in said for name, said in facts)


def test_chinese_is_chinese_everywhere() -> None:
    reading = Reading(make(chat=True), "zh")
    for view in VIEWS:
        for part in chapters(reading, **view):
            texts = (
                [part.text] if isinstance(part, Heading | Prose)
                else [name for name, _ in part.rows] if isinstance(part, Facts)
                else []
            )  # fmt: skip
            for text in texts:
                if text not in {"x"} and not text.startswith("--"):
                    assert re.search(r"[\u4e00-\u9fff]|Softmax|Q、K、V", text), text


def test_the_chosen_token_stands_out_in_every_table_of_candidates() -> None:
    document = make()
    tables = [t for t in parts(document, Table, step=1) if t.columns[0].title == ""]
    chosen = Reading(document).chosen(1)
    for table in tables[1:]:
        assert [table.rows[number][1] for number in table.strong] == [chosen]


def held_to_a_grammar(*barred: str, others: int = 0) -> dict[str, Any]:
    """A document whose first decision was held to a grammar."""
    document = make()
    sampler = document["decisions"][0]["sampler"]
    sampler["rest"]["count"] = others
    sampler["grammar"] = {
        "allowed": 12,
        "vocabulary": 49152,
        "probability": 0.031,
        "barred": [
            {"id": 70 + n, "text": text, "logit": 9.5 - n, "probability": 0.4 / (n + 1)}
            for n, text in enumerate(barred)
        ],
    }
    return document


def test_a_grammar_is_a_step_of_its_own() -> None:
    document = held_to_a_grammar(" Sure", HOSTILE)
    english, chinese = (walk(document, view={"step": 0}, language=language) for language in LANGUAGES)
    assert "Allowed by the grammar: 12 of 49,152 tokens, 3.1 % of the probability." in english
    assert "语法允许：49,152 个词元中的 12 个，占 3.1 % 的概率。" in chinese
    for out in (english, chinese):
        assert re.search(r"^ *␣Sure +70 +9\.500 +40 %$", out, re.MULTILINE)
        assert re.search(r"^ *␛\[31mred.* 71 +8\.500 +20 %$", out, re.MULTILINE)
        assert not set(out) & {"\x1b", "\u202e", "\u200b"}
        assert max(cell_len(line) for line in out.split("\n")) <= 80
    assert "No other token is allowed." not in walk(held_to_a_grammar(others=7), view={"step": 0})


def test_a_grammar_that_leaves_what_is_listed_leaves_no_others() -> None:
    document = held_to_a_grammar()
    del document["decisions"][0]["sampler"]["candidates"][12:]
    assert "No other token is allowed." in walk(document, view={"step": 0})
    assert "此外没有允许的词元。" in walk(document, view={"step": 0}, language="zh")


def test_without_a_grammar_nothing_is_said_of_one() -> None:
    missing, null = make(), make()
    for decision in null["decisions"]:
        decision["sampler"]["grammar"] = None
    for document in (missing, null):
        assert "grammar" not in walk(document, view={"step": 0})
        assert "语法" not in walk(document, view={"step": 0}, language="zh")
