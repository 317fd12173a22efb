"""A trace in a notebook: static, well-formed, and nothing in it acts."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from boli.trace.view.notebook import to_html, to_text
from boli.trace.view.parts import Bars, Film, Grid, Part, Ruler
from boli.trace.view.picture import draw
from boli.trace.view.reading import Reading
from boli.trace.view.terminal import chapters
from trace_documents import HOSTILE, make

VOID = {"br", "rect", "circle", "polyline", "meta"}


class Elements(HTMLParser):
    """All elements and attributes of a page, with a check that what is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile() -> dict[str, Any]:
    document = make(
        prompt=["<bos>", HOSTILE, '"><svg onload=alert(1)>'], answer=[HOSTILE + "!", "</style>"], chat=True
    )
    document["model"]["name"] = "</title><script>alert(2)</script>"
    document["text"]["messages"] = [{"role": HOSTILE, "content": "<img src=x onerror=alert(3)>"}]
    for each in (*document["weights"], *document["stages"]):
        each |= {"name": HOSTILE, "equation": "</div><script>", "source": HOSTILE}
    return document


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "document", [make(), make(temperature=0.0, chat=True), hostile()], ids=["en", "chat", "bad"]
)
def test_the_page_is_static_and_complete(document: dict[str, Any], language: Any) -> None:
    page = Elements(to_html(document, language=language))
    assert not {"script", "iframe", "object", "img", "link", "a", "form"} & set(page.names)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in {"href", "src"}]
    assert not re.search(r"https?://|url\(|@import", to_html(document, language=language))
    assert page.names.count("svg") >= 4
    assert "details" in page.names


def test_hostile_text_is_text() -> None:
    page = Elements(to_html(hostile()))
    assert "␛[31mred␛[0m␇<script>alert(1)</script>&⟨202E⟩" in page.text
    assert "<img src=x onerror=alert(3)>" in page.text
    assert "\u202e" not in page.text
    assert "\x1b" not in page.text


def drawn(document: dict[str, Any]) -> list[tuple[Part, str]]:
    found = []
    for view in ({}, {"step": 1}, {"layer": 2, "head": 0}):
        for part in chapters(Reading(document), **view):
            picture = draw(part, "a title", heading="a heading", note="a note")
            if picture is not None:
                found.append((part, picture.svg()))
    return found


def test_pictures_are_well_formed_and_stay_inside_their_frame() -> None:
    pictures = drawn(make(prompt=["<bos>", *"我爱你" * 30])) + drawn(hostile())
    assert {type(part) for part, _ in pictures} == {Film, Grid, Bars, Ruler}
    for _, svg in pictures:
        root = ElementTree.fromstring(svg)
        width, height = float(root.get("width", 0)), float(root.get("height", 0))
        for each in root.iter("{http://www.w3.org/2000/svg}rect"):
            if each.get("width") != "100%":
                right = float(each.get("x", 0)) + float(each.get("width", 0))
                bottom = float(each.get("y", 0)) + float(each.get("height", 0))
                assert right <= width + 1
                assert bottom <= height + 1


def test_a_heat_map_has_a_cell_for_each_position_seen() -> None:
    document = make()
    grid = next(part for part in chapters(Reading(document), layer=1) if isinstance(part, Grid))
    picture = draw(grid, "heads")
    assert picture is not None
    cells = ElementTree.fromstring(picture.svg()).iter("{http://www.w3.org/2000/svg}title")
    tips = [each.text or "" for each in cells if "→" in (each.text or "")]
    assert len(tips) == len(grid.rows) * len(grid.columns)


def test_words_are_left_to_words() -> None:
    from boli.trace.view.parts import Prose

    assert draw(Prose("text"), "a title") is None


def test_the_text_is_the_walk() -> None:
    text = to_text(make())
    assert "The answer, token by token" in text
    assert "\x1b" not in text
    assert to_text(make(), language="zh").startswith("这次运行")
