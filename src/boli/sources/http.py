"""A small, suspicious HTTP client: bounded sizes, time-outs and redirects, and resume.

Only `simple_index` uses it, where there is no pip to do the work. Credentials go to the host they were given
for and nowhere else, and nothing is read that is larger than it may be.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import ipaddress
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from boli.errors import IntegrityError, NetworkError, SourceError
from boli.sources.storage import check_digest, check_room, human

if TYPE_CHECKING:
    from collections.abc import Callable

    from boli.sources.progress import Progress

_SECONDS = 15.0
_REDIRECTS = 5
_ATTEMPTS = 4
_CHUNK = 1 << 18
_MAX_FILE_BYTES = 2**50
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a file beforehand: its hex SHA-256 and its size in bytes, or None."""

    sha256: str | None
    nbytes: int | None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Hands redirects to us, so that they can be counted and checked."""

    def redirect_request(self, *_: object) -> None:
        return None


def read_page(url: str, accept: str, limit: int) -> tuple[bytes, str, str] | None:
    """GET a small document.

    Returns:
        Its bytes, its media type, and the address it came from after redirects; None if there is none (404).

    Raises:
        NetworkError: It could not be fetched, or is larger than `limit` bytes.
    """
    with _open(url, {"Accept": accept}, url) as (reply, final):
        if reply.status in (404, 410):
            return None
        _require_success(reply, final)
        body = reply.read(limit + 1)
        if len(body) > limit:
            raise NetworkError(
                f"{shown(url)} sent more than {human(limit)}", remedy="check the address of the index"
            )
        return body, reply.headers.get_content_type(), final


def download(url: str, part: Path, expected: Expected, progress: Progress, *, origin: str) -> None:
    """GET a file into `part`, going on from what an earlier attempt left there.

    `origin` is the address of the index that named the file: if the user wrote it as http, its host may be
    asked by http.

    On success `part` is whole and its hash is right if one was expected. After a failure it stays, to be
    resumed, unless its content is wrong: then it is removed.

    Raises:
        NetworkError: The server cannot be reached or refuses, several times over.
        IntegrityError: Wrong length or hash.
        StorageError: No room.
    """
    told = 0

    def tell(size: int) -> None:
        nonlocal told
        progress.advance(size - told)
        told = size

    attempt, resumed = 0, part.exists()
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _transfer(url, part, expected, tell, origin)
            _verify(part, expected)
        except NetworkError:
            attempt = 0 if part.exists() and part.stat().st_size > before else attempt + 1
            resumed = True
            if attempt >= _ATTEMPTS:
                raise
        except IntegrityError:
            part.unlink(missing_ok=True)
            if not resumed:
                raise
            resumed = False  # the first half was of another file; once more from the start
        else:
            return


def _transfer(url: str, part: Path, expected: Expected, tell: Callable[[int], None], origin: str) -> None:
    start = part.stat().st_size if part.exists() else 0
    tell(start)
    if start and start == expected.nbytes:
        return
    headers = {"Range": f"bytes={start}-"} if start else {}
    with _open(url, headers, origin) as (reply, final):
        if reply.status == 416:
            raise IntegrityError(f"{shown(url)} is shorter than what came of it before")
        _require_success(reply, final)
        match = _RANGE.fullmatch(reply.headers.get("Content-Range", ""))
        if reply.status == 206 and (match is None or int(match[1]) != start):
            raise IntegrityError(f"{shown(url)} sent another part of the file than it was asked for")
        if reply.status != 206:
            start = 0
            tell(0)
        length = _length(reply)
        limit = expected.nbytes if expected.nbytes is not None else _MAX_FILE_BYTES
        if length is not None and (
            start + length > limit or (expected.nbytes is not None and start + length != limit)
        ):
            raise IntegrityError(
                f"{shown(url)} has another size than the index says",
                cause=f"{start + length} bytes, listed: {limit}",
            )
        check_room(part.parent, length or 0)
        with part.open("ab" if start else "wb") as sink:
            done = _copy(reply, sink, start, limit, tell)
        if length is not None and done < start + length:
            raise NetworkError(
                f"{shown(url)} broke off after {done} bytes", remedy="try again; it will go on from there"
            )


def _copy(
    reply: http.client.HTTPResponse, sink: IO[bytes], start: int, limit: int, tell: Callable[[int], None]
) -> int:
    done = start
    while True:
        try:
            chunk = reply.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise NetworkError(f"the connection broke off after {done} bytes", cause=str(error)) from error
        if not chunk:
            return done
        done += len(chunk)
        if done > limit:
            raise IntegrityError("a file is longer than it may be", cause=f"more than {limit} bytes came")
        sink.write(chunk)
        tell(done)


def _verify(part: Path, expected: Expected) -> None:
    if expected.sha256 is None:
        return
    with part.open("rb") as stream:
        check_digest(part.stem, expected.sha256, hashlib.file_digest(stream, "sha256").hexdigest())


def _length(reply: http.client.HTTPResponse) -> int | None:
    """The promised length of the body; encoded bodies are refused, since their length says nothing."""
    if reply.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise IntegrityError("the server compressed a file that it was asked to send as it is")
    text = reply.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


@contextmanager
def _open(url: str, headers: dict[str, str], origin: str) -> Iterator[tuple[http.client.HTTPResponse, str]]:
    """Open an address, following redirects ourselves. Yields the reply and the address it came from."""
    opener = urllib.request.build_opener(_NoRedirect(), urllib.request.HTTPSHandler(context=_tls()))
    for _ in range(_REDIRECTS + 1):
        bare, credentials = _without_credentials(url)
        _require_allowed(bare, origin)
        fields = {"User-Agent": "boli", "Accept-Encoding": "identity", **headers}
        request = urllib.request.Request(bare, headers=fields)  # noqa: S310  checked one line above
        if credentials:
            request.add_unredirected_header("Authorization", credentials)
        try:
            reply = opener.open(request, timeout=_SECONDS)
        except urllib.error.HTTPError as error:
            reply = error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(bare, error) from error
        with reply:
            if reply.status not in (301, 302, 303, 307, 308):
                yield reply, url
                return
            url = join(url, reply.headers.get("Location", ""))
    raise NetworkError(
        f"{shown(url)} redirects more than {_REDIRECTS} times", remedy="check the address of the index"
    )


def _require_allowed(url: str, origin: str) -> None:
    """Allow https anywhere, http only on this machine or on the host for which the user wrote http."""
    parts, start = urlsplit(url), urlsplit(origin)
    wanted = parts.scheme == "http" and (
        _is_loopback(parts.hostname or "") or (start.scheme, start.hostname) == ("http", parts.hostname)
    )
    if parts.hostname and (parts.scheme == "https" or wanted):
        return
    raise NetworkError(
        f"{shown(url)} is not fetched",
        cause="it is not https, and what comes over plain http can be changed on the way",
        remedy="use an index that serves its files by https",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_credentials(url: str) -> tuple[str, str | None]:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    name, _, password = user.partition(":")
    pair = f"{unquote(name)}:{unquote(password)}".encode()
    return urlunsplit(parts._replace(netloc=host)), "Basic " + base64.b64encode(pair).decode()


def join(base: str, link: str) -> str:
    """The address that `link` means on the page `base`; name and password go along to the same host only."""
    userinfo, at, host = urlsplit(base).netloc.rpartition("@")
    target = urljoin(_without_credentials(base)[0], link)
    parts = urlsplit(target)
    return urlunsplit(parts._replace(netloc=f"{userinfo}@{host}")) if at and parts.netloc == host else target


def shown(url: str) -> str:
    """An address as it may be printed: without name and password."""
    try:
        return _without_credentials(url)[0]
    except ValueError:
        return "an address that is none"


def _tls() -> ssl.SSLContext:
    """The system's certificates, or those that the settings of pip, requests or OpenSSL name."""
    for variable in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        if path := os.environ.get(variable):
            return ssl.create_default_context(cafile=path)
    return ssl.create_default_context()


def _require_success(reply: http.client.HTTPResponse, url: str) -> None:
    if reply.status not in (200, 206):
        remedy = (
            "check the credentials in the address of the index"
            if reply.status in (401, 403)
            else "try again later"
        )
        raise NetworkError(f"{shown(url)} answered {reply.status} {reply.reason}", remedy=remedy)


def _unreachable(url: str, error: Exception) -> SourceError:
    reason = getattr(error, "reason", None) or error
    return NetworkError(
        f"{shown(url)} cannot be reached",
        cause=f"{type(reason).__name__}: {reason}",
        remedy="check the network and HTTPS_PROXY, or name another index (PIP_INDEX_URL)",
    )
