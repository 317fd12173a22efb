"""A real HTTP server on the loopback interface that can misbehave on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    host: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Reply:
    """What is sent.

    `cut` breaks the connection after so many bytes of the body, `slow` waits so many seconds between chunks
    of 16 KiB, `length` is a Content-Length that may lie, and without `ranges` a Range is ignored.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    slow: float = 0.0
    length: int | None = None
    ranges: bool = True


class Site:
    """`with Site(answer) as site:` serves at `site.url` what `answer` gives, and keeps a record."""

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self.requests: list[Request] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
                headers = {key.lower(): value for key, value in self.headers.items()}
                request = Request(self.command, headers.get("host", ""), unquote(parts.path), query, headers)
                site.requests.append(request)
                self._send(answer(request), headers.get("range"))

            do_HEAD = do_GET

            def _send(self, reply: Reply, wanted: str | None) -> None:
                body, status, extra = reply.body, reply.status, dict(reply.headers)
                if wanted and reply.ranges and status == 200 and self.command == "GET":
                    start = int(wanted.removeprefix("bytes=").split("-")[0])
                    status = 206 if start < len(body) else 416
                    extra["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                    body = body[start:]
                self.send_response(status)
                for key, value in extra.items():
                    self.send_header(key, value)
                if "Content-Length" not in extra:
                    self.send_header(
                        "Content-Length", str(len(body) if reply.length is None else reply.length)
                    )
                if reply.cut is not None or reply.length is not None:
                    self.send_header("Connection", "close")
                self.end_headers()
                if self.command == "HEAD":
                    return
                end = len(body) if reply.cut is None else min(reply.cut, len(body))
                for at in range(0, end, 16384):
                    self.wfile.write(body[at : min(at + 16384, end)])
                    if reply.slow:
                        self.wfile.flush()
                        time.sleep(reply.slow)
                if end < len(body) or reply.length is not None:
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                """The record is kept in `site.requests`."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that goes away in the middle is part of these tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.other_host = f"http://localhost:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def seen(self, method: str, part: str) -> list[Request]:
        """The requests of a method whose path contains `part`."""
        return [
            request for request in list(self.requests) if request.method == method and part in request.path
        ]


@contextmanager
def nothing_listens() -> Iterator[str]:
    """An address on which connections are refused at once."""
    with Site(lambda _: Reply()) as site:
        url = site.url
    yield url
