"""Text from models in views: it is shown, and never acts."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from boli.trace.view.numbers import percent, seconds
from boli.trace.view.shown import fitted, quoted, shortened, shown, token_text, wrapped
from trace_documents import HOSTILE

ACTING = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}
TEXTS = st.text(max_size=60)


@given(TEXTS)
def test_nothing_acts(text: str) -> None:
    for made in (shown(text), token_text(text), quoted(text, 20), shortened(shown(text), 9)):
        assert not {unicodedata.category(character) for character in made} & ACTING


def test_what_is_hidden_gets_a_name() -> None:
    assert shown(HOSTILE) == ("␛[31mred␛[0m␇<script>alert(1)</script>&⟨202E⟩abc⟨2066⟩⟨200B⟩\u0301⟨E0041⟩")
    assert shown("a\nb\tc", lines=True) == "a\nb\tc"


def test_marks_do_not_pile_up_nor_sit_on_what_stands_before() -> None:
    assert shown("e" + "\u0301" * 100) == "e" + "\u0301" * 3
    assert shown("\u0301e") == "◌\u0301e"


def test_tokens_show_their_spaces() -> None:
    assert token_text(" love") == "␣love"
    assert token_text("  ") == "␣␣"
    assert token_text("a b ") == "a b␣"
    assert token_text("\n") == "␊"
    assert token_text("", "<0xE5>") == "<0xE5>"
    assert token_text("") == "∅"


@given(TEXTS, st.integers(0, 30))
def test_fitted_text_takes_exactly_its_cells(text: str, cells: int) -> None:
    assert cell_len(fitted(shown(text), cells)) == cells
    assert cell_len(shortened(shown(text), cells)) <= cells


@given(st.text(alphabet="ab c，。中国（）“”x ", max_size=80), st.integers(2, 30))
@settings(max_examples=300)
def test_paragraphs_keep_every_word_and_their_width(text: str, cells: int) -> None:
    lines = wrapped(text, cells)
    assert all(cell_len(line) <= cells for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_lines_do_not_begin_with_a_closing_mark() -> None:
    lines = wrapped("模型不认字。文本先按一张词表切成词元，往下传的只是编号（id）。", 12)
    assert not any(line[0] in "，。）" for line in lines)
    assert any("（id）" in line for line in lines)


def test_quotes_show_both_ends_of_a_long_text() -> None:
    assert quoted("我爱中华", 20) == "“我爱中华”"
    assert quoted("一二三四五六七八九十" * 5, 23) == "“一二三四五 … 六七八九十”"


def test_numbers_keep_what_they_have_to_say() -> None:
    assert [percent(x) for x in (1.0, 0.99999, 0.9987, 0.991, 0.42, 0.042, 0.00042, 0.0)] == [
        "100 %", "100 %", "99.87 %", "99.1 %", "42 %", "4.2 %", "0.042 %", "0 %",
    ]  # fmt: skip
    assert percent(1e-9) == "< 0.001 %"
    assert [seconds(x) for x in (1.5, 0.0123, 4.2e-5, 0.0)] == ["1.50 s", "12.3 ms", "42.0 µs", "0"]
