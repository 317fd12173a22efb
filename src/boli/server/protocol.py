"""uvicorn's HTTP, with bounds on what a client may send before it has asked for anything.

httptools has none: it would keep a header of any size, for as long as the client likes.
"""

from __future__ import annotations

import asyncio
import http
import json
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from boli.server.errors import ApiError

MAX_HEADER_BYTES = 64 << 10  # request line and headers together
MAX_HEADERS = 128
HEADER_SECONDS = 20.0  # from the first byte, or from the connection, to the last header


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        max_connections: How many there may be; the next one is told so and closed.
    """

    max_connections = 512

    _deadline: asyncio.TimerHandle | None = None
    _reading = 0  # bytes that came of headers that are not complete; -1 within a request
    _taken = 0  # bytes of headers that are complete
    _refusal: ApiError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(ApiError(503, "too many connections", headers={"Retry-After": "1"}))
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._settle()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes what came."""
        if self._refusal is not None:
            return
        headers = self._reading >= 0
        if headers:
            self._reading += len(data)
            if self._deadline is None:
                self._expect()
        super().data_received(data)
        if headers and self._reading > MAX_HEADER_BYTES:
            self._refuse(_too_large())

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._taken = 0
        if self._reading < 0:
            self._reading = 0
            self._expect()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is complete."""
        super().on_header(name, value)
        self._taken += len(name) + len(value)
        if len(self.headers) > MAX_HEADERS or self._taken > MAX_HEADER_BYTES:
            self._refusal = _too_large()
            raise ValueError("too many headers")  # ends the parser, which asks for `send_400_response`

    def on_headers_complete(self) -> None:
        """The request can be answered."""
        self._settle()
        self._reading = -1
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The request has been answered; the next may come when it likes."""
        super().on_response_complete()
        if self._reading < 0 and not self.pipeline:
            self._reading = 0

    def send_400_response(self, msg: str) -> None:
        """Refuses what is not HTTP, or too much of it."""
        refusal, self._refusal = self._refusal, None
        self._refuse(refusal or ApiError(400, "this is not a valid HTTP request"))

    def _refuse(self, error: ApiError) -> None:
        self._settle()
        self._refusal = error
        if self.transport.is_closing():
            return
        body = json.dumps(error.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in (headers | error.headers).items()]
        lines.append("Connection: close")
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()

    def _expect(self) -> None:
        """The headers must come in time."""
        self._settle()
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        if self._reading > 0:
            self._refuse(ApiError(408, "the headers did not come in time"))
        else:  # it never asked for anything
            self._refusal = ApiError(408, "")
            self.transport.close()

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def bounded(max_connections: int) -> type[asyncio.Protocol]:
    """The protocol of a server that holds so many connections."""
    made = type("Protocol", (BoundedProtocol,), {"max_connections": max_connections})
    return cast("type[asyncio.Protocol]", made)


def _too_large() -> ApiError:
    return ApiError(431, f"the headers have more than {MAX_HEADER_BYTES:,} bytes or {MAX_HEADERS} lines")
