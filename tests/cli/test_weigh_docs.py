"""What the pages about weighing show is what boli says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cli.shell import Here

PAGES = [Path(__file__).parents[2] / "docs" / name for name in ("weigh.md", "weigh.zh-CN.md")]
LEFT_OUT = "…"


def shown() -> list[tuple[str, list[str]]]:
    """Every command of the pages with the lines that it is said to print."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n\$ (.+?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            command, *lines = block.rstrip("\n").split("\n")
            found.append((command, lines))
    return found


@pytest.mark.parametrize(("command", "lines"), shown(), ids=lambda value: str(value)[:60])
def test_the_pages_show_what_boli_prints(here: Here, command: str, lines: list[str]) -> None:
    program, *arguments = shlex.split(command)
    assert program == "boli"
    ended = here(*arguments, COLUMNS="80")
    assert ended.code == 0, ended.err
    printed = ended.out.split("\n")
    place, gap = 0, False
    for line in lines:
        if line == LEFT_OUT:
            gap = True
            continue
        assert line in printed[place:], f"{command} does not print {line!r} there"
        found = printed.index(line, place)
        assert gap or found == place, f"lines are missing before {line!r}"
        place, gap = found + 1, False


def test_both_pages_show_the_same_outputs() -> None:
    english, chinese = (
        re.findall(r"```console\n.*?```", page.read_text(encoding="utf-8"), re.DOTALL) for page in PAGES
    )
    assert english == chinese
    assert len(english) >= 7


def test_the_picture_of_the_pages_is_what_boli_draws(here: Here, tmp_path: Path) -> None:
    from boli import weigh
    from boli.weigh.picture_matrices import draw_matrices

    account = weigh("gemma-3-270m")
    drawn = draw_matrices(account.weights, account.model.name).svg()
    kept = PAGES[0].parent / "images" / "weigh-gemma-3-270m.svg"
    assert kept.read_text(encoding="utf-8") == drawn
