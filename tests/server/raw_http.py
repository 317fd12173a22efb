"""HTTP by hand, for requests that no client would send."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any

from server.running import PATIENCE, Running


@dataclass(frozen=True)
class Reply:
    """What came back; status 0 if the connection was closed without a word."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def is_error(self) -> bool:
        """Whether it is an error in OpenAI's form."""
        return set(self.document) == {"error"} and set(self.document["error"]) == {
            "message", "type", "param", "code",
        }  # fmt: skip


def connect(here: Running) -> socket.socket:
    """A connection to a server; close it."""
    return socket.create_connection(("127.0.0.1", here.port), timeout=PATIENCE)


def head(method: str, path: str, *headers: str, host: str | None = "127.0.0.1") -> bytes:
    """The beginning of a request, as it is given."""
    lines = [f"{method} {path} HTTP/1.1", *([] if host is None else [f"Host: {host}"]), *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def post(path: str, body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    """A whole request with a body."""
    return head("POST", path, f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers) + body


def say(here: Running, *parts: bytes) -> Reply:
    """Sends bytes on a new connection and reads one reply; a part that nobody takes any more is not sent."""
    with connect(here) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break
        return read(connection, body=not parts[0].startswith(b"HEAD"))


def read(connection: socket.socket, *, body: bool = True) -> Reply:
    """Reads one reply; without a body if the request asked for none."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = _receive(connection)
        if not more:
            return Reply(0, {}, data)
        data += more
    start, _, content = data.partition(b"\r\n\r\n")
    lines = start.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    status = int(lines[0].split()[1])
    if not body:
        return Reply(status, headers, b"")
    if "content-length" in headers:
        while len(content) < int(headers["content-length"]):
            more = _receive(connection)
            if not more:
                break
            content += more
    elif headers.get("transfer-encoding") == "chunked":
        while not content.endswith(b"0\r\n\r\n"):
            more = _receive(connection)
            if not more:
                break
            content += more
    return Reply(status, headers, content)


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionError:
        return b""
