"""The file that is written: whole or not at all, small, the same each time, and with all of the document."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest

from boli.errors import StorageError
from boli.trace.page import page_html, write_page
from boli.trace.page.packed import packed
from boli.trace.schema import check_document
from web.conftest import Opener
from web.made_decision import packed as packed_array
from web.made_document import make_document

# Gives the document back as JSON, with arrays as base64 again.
_READ_BACK = """async () => {
    const document_ = await boli.openEmbedded(document.getElementById('document').textContent)
    return JSON.stringify(document_, (key, value) =>
        value instanceof Uint8Array ? btoa(String.fromCharCode(...value)) : value)
}"""


def test_the_made_document_is_one() -> None:
    for temperature in (0.0, 0.8):
        check_document(make_document(layers=3, temperature=temperature), "the made document")


def test_the_page_holds_the_whole_document(opener: Opener) -> None:
    document = make_document(layers=3, generated=9, hostile=True)
    # What the fixture lacks: other numbers, rows with different keys, a text that contradicts its id.
    document["decisions"][2]["values"] = {
        "q": packed_array(np.random.default_rng(1).normal(size=(3, 576)), "f4"),
        "k": packed_array(np.random.default_rng(2).normal(size=(3, 192)), "f2"),
        "pages": packed_array(np.arange(7), "i4"),
        "empty": packed_array(np.zeros((0, 4)), "u1"),
        "flat": packed_array(np.linspace(0, 1, 11), "u1"),
    }
    document["tokens"][4]["text"] = "something else"
    document["compare"] = {
        "decisions": [{"a": [1, {"b": None}]}] * 6,
        "rows": [{"x": 1}, {"x": 2}, {"y": 3}, {"x": 4}],
    }
    before = copy.deepcopy(document)
    opened = opener(document | {"compare": None})
    page = opened.page
    page.evaluate("(text) => { document.getElementById('document').textContent = text }", packed(document))
    assert json.loads(page.evaluate(_READ_BACK)) == json.loads(json.dumps(document))
    assert document == before


def test_two_hundred_tokens_fit_into_three_megabytes() -> None:
    document = make_document(generated=185)
    assert len(document["tokens"]) >= 199
    assert len(page_html(document).encode()) < 3_000_000


def test_the_same_document_gives_the_same_file() -> None:
    document = make_document(layers=2, generated=4)
    assert page_html(document) == page_html(copy.deepcopy(document))


def test_a_document_cannot_leave_its_element() -> None:
    document = make_document(layers=2, generated=4, hostile=True)
    document["model"]["name"] = "</title><script>alert(1)</script>"
    html = page_html(document)
    assert html.count("<script") == 2
    assert html.count("</script>") == 2
    assert "alert(1)</script>" not in html


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.html"
    path.write_text("before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the page"):
        write_page(make_document(layers=2, generated=3), path)
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["trace.html"]


def test_numbers_that_are_none_are_refused() -> None:
    document = make_document(layers=2, generated=3)
    document["decisions"][0]["logit"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        page_html(document)
