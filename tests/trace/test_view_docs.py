"""What the pages about tracing show is what boli says, with the instructions that they name."""

from __future__ import annotations

import doctest
import io
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from boli.cli.app import run
from boli.trace import Trace
from boli.trace.view.attention import heads_grid
from boli.trace.view.parts import Grid, Ruler
from boli.trace.view.picture import draw
from boli.trace.view.reading import Reading
from boli.trace.view.sieve import sieve
from boli.trace.view.wall import film_wall
from cli.shell import boli

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "trace.md", DOCS / "trace.zh-CN.md"]
LEFT_OUT = "…"
SETTINGS = {"BOLI_SIMD": "avx2", "COLUMNS": "80"}

pytestmark = pytest.mark.model


def shown() -> list[tuple[str, list[str]]]:
    """Every command of the pages with the lines that it is said to print; each command once."""
    found: dict[str, list[list[str]]] = {}
    for page in PAGES:
        for block in re.findall(r"```console\n\$ (.+?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            command, *lines = block.rstrip("\n").split("\n")
            found.setdefault(command, []).append(lines)
    # Behind one block of a command the next one is looked for from the beginning again.
    return [(command, lines) for command, blocks in found.items() for lines in blocks]


def pictures(story: Trace, drawn: Trace) -> Iterator[tuple[str, str]]:
    """The pictures of the pages: their names, and what they are."""
    reading = Reading(story.document())
    wall = next(part for part in film_wall(reading, range(4)) if isinstance(part, Grid))
    heads = next(part for part in heads_grid(reading, 0, 4) if isinstance(part, Grid))
    ruler = next(part for part in sieve(Reading(drawn.document()), 0) if isinstance(part, Ruler))
    for name, part, title in (
        ("trace-wall", wall, "What each layer of Gemma 3 270M would have said"),
        ("trace-heads", heads, "Where the heads of layer 4 looked"),
        ("trace-draw", ruler, "The buckets of the candidates, and the number that was drawn"),
    ):
        picture = draw(part, title)
        assert picture is not None
        yield name, picture.svg()


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each command of the pages prints, run in their order in one folder."""
    folder = tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", SETTINGS["COLUMNS"])
        patch.delenv("FORCE_COLOR", raising=False)
        out: dict[str, list[str]] = {"": [str(folder)]}
        for command in dict.fromkeys(command for command, _ in shown()):
            program, *arguments = shlex.split(command)
            assert program == "boli"
            if arguments[1].endswith(".json"):
                out[command] = _told(arguments)
                continue
            ended = boli(*arguments, settings=SETTINGS)
            if "BOLI_SIMD" in ended.err:
                pytest.skip("this processor has not the instructions that the pages name")
            assert ended.code == 0, ended.err
            out[command] = ended.out.split("\n")
    return out


def _told(arguments: list[str]) -> list[str]:
    """What a command says of a saved trace; it needs no instructions, and so no process of its own."""
    with redirect_stdout(io.StringIO()) as out:
        assert run(arguments) == 0
    return out.getvalue().split("\n")


@pytest.mark.parametrize(("command", "lines"), shown(), ids=lambda value: str(value)[:60])
def test_the_pages_show_what_boli_prints(
    printed: dict[str, list[str]], command: str, lines: list[str]
) -> None:
    place, gap = 0, False
    for line in lines:
        if line == LEFT_OUT:
            gap = True
            continue
        assert line in printed[command][place:], f"{command} does not print {line!r} there"
        found = printed[command].index(line, place)
        assert gap or found == place, f"lines are missing before {line!r}"
        place, gap = found + 1, False


def test_the_measured_tables_have_the_rows_that_boli_prints(printed: dict[str, list[str]]) -> None:
    """Times are of the machine and the day that the pages name; stages and their megabytes are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(printed[""][0])
        for page in PAGES:
            (block,) = re.findall(
                r"```text\n\$ boli (trace story\.json.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
            )
            command, *lines = block.split("\n")
            told = [_timeless(line) for line in _told(shlex.split(command))]
            rows = [line for line in lines if "  " in line]
            assert len(rows) == 14
            assert [row for row in rows if _timeless(row) not in told] == []


def _timeless(line: str) -> str:
    """A row without bars, what the machine's limit is, and numbers but megabytes."""
    line = re.sub(r"[█-▏]+|< |\b(?:memory|cores)\b|内存|算力", "", line)
    line = re.sub(r"\d[\d.,]*+(?! MB)( (?:s|ms|µs|B|kB|%|G|M)(?=\s|$))?", "0", line)
    return " ".join(line.split())


def test_the_python_of_the_pages_says_what_it_says(printed: dict[str, list[str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(printed[""][0])
        for page in PAGES:
            code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
            test = doctest.DocTestParser().get_doctest(code, {}, page.name, None, None)
            assert test.examples
            assert doctest.DocTestRunner(verbose=False).run(test, out=sys.stderr.write).failed == 0


def test_the_pictures_of_the_pages_are_what_boli_draws(printed: dict[str, list[str]]) -> None:
    folder = Path(printed[""][0])
    for name, svg in pictures(Trace.load(folder / "story.json"), Trace.load(folder / "drawn.json")):
        assert (DOCS / "images" / f"{name}.svg").read_text(encoding="utf-8") == svg


def test_both_pages_tell_the_same() -> None:
    english, chinese = (
        [
            re.sub(r" --language zh", "", command)
            for command in re.findall(r"```console\n\$ (.+)", page.read_text(encoding="utf-8"))
        ]
        for page in PAGES
    )
    assert english == chinese
    assert len(english) >= 10
