"""The page at `/`: files that come with boli, read once at the start, and nothing else from the disk."""

from __future__ import annotations

import mimetypes
from functools import partial
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from starlette.responses import Response

_FOLDER = "page"
_HEADERS = {
    # Scripts, styles and data of this server only; what a model writes cannot load anything.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",
}
_HTML = """<!doctype html><meta charset="utf-8"><title>boli</title>
<h1>boli</h1><p>This is an OpenAI-compatible server. Its address for clients ends in <code>/v1</code>.</p>
"""


class Pages:
    """The files of the page, by path."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str]] = {"/": (_HTML.encode(), "text/html; charset=utf-8")}
        folder = resources.files("boli.server") / _FOLDER
        if folder.is_dir():
            self._read(folder, "/")

    @property
    def paths(self) -> frozenset[str]:
        """Every path that there is, exactly; they are open without a key."""
        return frozenset(self._files)

    def router(self) -> APIRouter:
        """Routes for the files."""
        router = APIRouter(include_in_schema=False)
        for path in self._files:
            router.add_api_route(path, partial(self._get, path), methods=["GET", "HEAD"])
        return router

    async def _get(self, path: str, request: Request) -> Response:
        data, kind = self._files[path]
        return Response(data, media_type=kind, headers=_HEADERS)

    def _read(self, folder: Traversable, place: str) -> None:
        for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
            path = place + each.name
            if each.is_dir():
                self._read(each, path + "/")
            elif path == "/index.html":
                self._files["/"] = (each.read_bytes(), "text/html; charset=utf-8")
            elif kind := mimetypes.guess_type(each.name)[0]:
                text = kind.startswith("text/") or kind == "application/javascript"
                self._files[path] = (each.read_bytes(), f"{kind}; charset=utf-8" if text else kind)
