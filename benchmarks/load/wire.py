"""As much of HTTP/1.1 and of server-sent events as a load client needs, with a time for each event.

Nothing here waits for anything but the socket, and parsing a token costs a few microseconds: the client
shares the processor with the server that it measures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

MAX_HEAD = 64 * 1024  # bytes of a status line and headers
MAX_BODY = 64 * 1024 * 1024


class WireError(Exception):
    """The server said something that is not HTTP, or nothing at all."""


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a reply.

    Attributes:
        status: Such as 200.
        headers: Names in lower case.
    """

    status: int
    headers: dict[str, str]


class Exchange:
    """One request and its reply, on a connection of its own.

    Args:
        host: Where to connect to.
        port: There.
    """

    def __init__(self, host: str, port: int) -> None:
        self._where = host, port
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, method: str, path: str, body: bytes = b"") -> Head:
        """Sends a request; returns when the reply has begun.

        Raises:
            OSError, WireError: There is no reply.
        """
        self._reader, self._writer = await asyncio.open_connection(*self._where, limit=MAX_HEAD)
        host, port = self._where
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close"]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split()[1])
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError, ValueError) as error:
            raise WireError(f"no HTTP reply: {error}") from error
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        return Head(status, headers)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. What is cut off raises `WireError`."""
        dechunk = _Dechunk() if self._chunked else None
        total = 0
        while data := await self._reader.read(65536):
            total += len(data)
            if total > MAX_BODY:
                raise WireError(f"a reply of more than {MAX_BODY} bytes")
            if dechunk is not None:
                data = dechunk.feed(data)
            if data:
                yield data
            if dechunk is not None and dechunk.ended:
                return
        if dechunk is not None:
            raise WireError("the reply was cut off")

    async def body(self) -> bytes:
        """All of it."""
        return b"".join([piece async for piece in self.pieces()])

    async def events(self) -> AsyncIterator[tuple[float, bytes]]:
        """The data of each server-sent event, with the time at which it was read."""
        held = b""
        async for piece in self.pieces():
            now = time.perf_counter()
            held += piece
            *frames, held = held.split(b"\n\n")
            for frame in frames:
                if frame.startswith(b"data: "):
                    yield now, frame[6:]

    def close(self) -> None:
        """Ends the connection at once, in whatever state."""
        if self._writer is not None:
            self._writer.close()


class _Dechunk:
    """Takes the chunk sizes out of a body."""

    def __init__(self) -> None:
        self._held = b""
        self._left = 0  # bytes of the chunk that is being read, with the line end behind it
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """What of this is content."""
        self._held += data
        content = []
        while not self.ended:
            if self._left:
                part, self._held = self._held[: self._left], self._held[self._left :]
                content.append(part[: max(0, self._left - 2)])
                self._left -= len(part)
                if self._left:
                    break
            line, found, rest = self._held.partition(b"\r\n")
            if not found:
                break
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError as error:
                raise WireError(f"{line[:20]!r} is not the size of a chunk") from error
            self._held, self._left = rest, size + 2
            self.ended = size == 0
        return b"".join(content)
