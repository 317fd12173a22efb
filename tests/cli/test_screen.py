"""Cells, columns, colours: what a terminal is sent, and what a file or a pipe gets."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from boli.cli.table import Column, fold, print_facts, print_table
from boli.cli.terminal import has_colours, human_bytes, print_json, quoted, visible, width
from cli.shell import Here, Terminal, boli, lines_wider_than

COLUMNS = [Column("#", numeric=True), Column("piece"), Column("text")]
ROWS = [
    ["0", "▁我爱", '"我爱北京天安门"'],
    ["10", "e\u0301", '"Ω"'],
    ["200", "👍", '"a fairly long text of several words"'],
]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_table_lines_up_by_cells_not_by_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, ROWS)
    header, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ROWS)  # no terminal: one row, one line
    at = header.index("text")
    for line, row in zip(lines, ROWS, strict=True):
        before = line[: line.index(row[2])]
        assert cell_len(before) == at
        assert line == line.rstrip()
    assert [line[:3] for line in lines] == ["  0", " 10", "200"]


@pytest.mark.parametrize("columns", [24, 30, 40])
def test_a_narrow_table_is_folded_and_nothing_is_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(COLUMNS, ROWS)
    out = capsys.readouterr().out
    assert not lines_wider_than(out, columns)
    for row in ROWS:
        for character in "".join(row).replace(" ", ""):
            assert character in out


def test_facts_are_folded_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    features = "avx2 fma f16c avx512f avx512bw avx512vnni"
    print_facts([("name", "玻璃"), ("features", features)])
    out = capsys.readouterr().out
    assert not lines_wider_than(out, 30)
    assert out.startswith("name      玻璃\nfeatures  avx2 fma")
    assert out.split() == ["name", "玻璃", "features", *features.split()]


def test_styles_do_not_move_cells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_facts([("玻璃", "1"), ("name", "2")])
    print_table(COLUMNS, ROWS, styles=["cyan", None, "bold"])
    plain = capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_facts([("玻璃", "1"), ("name", "2")])
    print_table(COLUMNS, ROWS, styles=["cyan", None, "bold"])
    coloured = capsys.readouterr().out
    assert "\x1b[36m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert plain.startswith("玻璃  1\nname  2\n")


def test_numbers_stay_whole_as_long_as_anything_else_can_be_folded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table([Column("n", numeric=True), Column("text")], [["123456789", "long enough to fold"]])
    out = capsys.readouterr().out
    assert "123456789" in out
    assert not lines_wider_than(out, 20)


@settings(deadline=None)  # other programs may use the machine too
@given(st.text(st.characters(exclude_categories=["C"]), max_size=60), st.integers(2, 20))
def test_folding_keeps_all_and_fits(text: str, limit: int) -> None:
    parts = fold(text, limit)
    assert all(cell_len(part) <= limit for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


@settings(deadline=None)  # other programs may use the machine too
@given(st.text(max_size=40))
def test_no_text_can_steer_a_terminal(text: str) -> None:
    controls = {*map(chr, range(32)), *map(chr, range(127, 160))}
    assert not controls & set(visible(text))
    assert controls & set(visible(text, lines=True)) <= {"\n", "\t"}
    assert not controls & set(quoted(text))
    assert len(visible(text)) == len(text)


def test_sizes_for_people() -> None:
    sizes = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 98_362_432: "98.4 MB", 25_276_510_208: "25.3 GB"}
    assert {size: human_bytes(size) for size in sizes} == sizes
    assert human_bytes(10**15) == "1000.0 TB"


def test_json_is_utf8_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "我爱"})
    assert capsys.readouterr().out == '{"text": "我爱"}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json([float("nan")])


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert has_colours(Screen())
    assert not has_colours(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not has_colours(Screen())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert has_colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colours(Screen())


def test_the_width_is_columns_or_the_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert width(io.StringIO()) is None
    monkeypatch.setenv("COLUMNS", "33")
    assert width(io.StringIO()) == width(sys.stdout) == 33
    monkeypatch.setenv("COLUMNS", "wide")
    assert width(io.StringIO()) is None


@pytest.mark.parametrize(
    ("changes", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)],
    ids=str,
)
def test_a_terminal_gets_colours_if_it_wants_them(changes: dict[str, str], coloured: bool) -> None:
    with Terminal("doctor", settings=changes) as terminal:
        assert terminal.end() == 0
    assert ("\x1b[1mpackage" in terminal.raw) == coloured
    assert ("\x1b" in terminal.raw) == coloured
    assert not lines_wider_than(terminal.text, 80)


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_narrow_terminal_is_respected(columns: int, tmp_path: Path) -> None:
    info = tmp_path / "boli-9.dist-info"  # an extra that no machine has: its remedy is the longest line
    info.mkdir()
    lacks = 'Requires-Dist: no-such-thing; extra == "clients"'
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: boli\nVersion: 9\n{lacks}\n")
    with Terminal("doctor", columns=columns, settings={"PYTHONPATH": str(tmp_path)}) as terminal:
        assert terminal.end() == 0
    assert "'.[clients]'" in terminal.text
    assert not lines_wider_than(terminal.text, columns)


def test_a_pipe_gets_no_colours_unless_forced(here: Here) -> None:
    assert "\x1b" not in here("doctor").out
    assert "\x1b[1m" in here("doctor", FORCE_COLOR="1").out
    assert "\x1b" not in here("generat").err


def test_any_locale_can_print_chinese() -> None:
    changes = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "XDG_CACHE_HOME": "/缓存"}
    ended = boli("doctor", settings=changes)
    assert ended.code == 0
    assert "/??/boli/kernels" in ended.out
    ended = boli("doctor", "--json", settings=changes)
    assert ended.document["kernel_cache"]["path"] == "/缓存/boli/kernels"
