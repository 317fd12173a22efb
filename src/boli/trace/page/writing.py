"""Puts a document and the built front end into one HTML file."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from boli.engine.whole_file import write_whole
from boli.trace.page.packed import packed

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript>This page draws a trace and needs JavaScript; it loads nothing from any network.</noscript>
<script type="text/plain" id="document">{document}</script>
<script>{script}</script>
</body>
</html>
"""


def page_html(document: Mapping[str, Any]) -> str:
    """A trace as one self-contained HTML file.

    Args:
        document: A trace document, schema "boli-trace/1".

    Returns:
        HTML without any reference to another file; text of the model is in it only compressed.
    """
    script, style = asset("page.js"), asset("page.css")
    policy = "; ".join((
        "default-src 'none'",
        f"script-src {_hash_of(script)}",
        f"style-src {_hash_of(style)}",
        "base-uri 'none'",
        "form-action 'none'",
    ))  # fmt: skip
    name = str(document.get("model", {}).get("name", "trace"))[:200]
    return _PAGE.format(
        policy=policy, title=escape(f"{name} · boli"), style=style, script=script, document=packed(document)
    )


def write_page(document: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes `page_html` to a file: the whole of it, or nothing. Only its owner may read it.

    Raises:
        StorageError: The file cannot be written; what was there before is still there.
    """
    write_whole(Path(path), page_html(document), "the page")


def asset(name: str) -> str:
    """A built file, safe to stand inside an HTML element."""
    text = files("boli.trace.page").joinpath("assets", name).read_text(encoding="utf-8")
    for end in ("<script", "</script", "</style"):  # the first keeps a script open past its end, after "<!--"
        if end in text.lower():
            raise AssertionError(f"{name} contains {end}")
    return text.strip()


def _hash_of(text: str) -> str:
    """The source expression by which a policy allows an inline element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
