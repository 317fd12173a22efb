"""A real Chromium, if the machine has one, and pages opened in it from disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from boli.trace.page import write_page
from web.opened import Opened, open_page

Opener = Callable[..., Opened]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium on PATH: install Debian's `chromium` to test the page")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opener(chromium: Browser, tmp_path: Path) -> Iterator[Opener]:
    """Writes a document's page and opens it; at the end nothing may have been loaded, or have failed."""
    opened: list[Opened] = []

    def open_document(document: dict[str, Any], **context: Any) -> Opened:
        path = tmp_path / f"trace{len(opened)}.html"
        write_page(document, path)
        opened.append(open_page(chromium, path.as_uri(), **context))
        return opened[-1]

    yield open_document
    for one in opened:
        assert one.requests == [one.page.url]
        assert one.troubles == []
        one.page.context.close()
