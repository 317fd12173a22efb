"""Bounds on what a connection may send before it has asked for anything."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from boli.server import protocol, wire
from boli.server.limits import MAX_BODY_BYTES
from server.raw_http import connect, head, post, read, say
from server.running import Running, toy_server, until

ASK = json.dumps({"prompt": "x", "max_tokens": 1}).encode()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("protocol"), server={"max_connections": 8}) as server:
        yield server


@pytest.mark.parametrize(
    "headers",
    [
        ["X-Long: " + "x" * protocol.MAX_HEADER_BYTES],
        [f"X-{index}: 1" for index in range(protocol.MAX_HEADERS + 1)],
    ],
)
def test_headers_are_bounded(here: Running, headers: list[str]) -> None:
    reply = say(here, head("GET", "/health", *headers))
    assert reply.status == 431
    assert reply.is_error


def test_a_header_that_never_ends_is_cut_off(here: Running) -> None:
    with connect(here) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX-Endless: ")
        with pytest.raises(OSError):  # reset, or a broken pipe
            for _ in range(1000):
                connection.sendall(b"x" * 65536)


def test_what_is_no_http_is_refused(here: Running) -> None:
    reply = say(here, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
    assert reply.status == 400
    assert reply.is_error


def test_a_client_that_says_nothing_is_closed(here: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)
    with connect(here) as connection:
        assert connection.recv(100) == b""
    with connect(here) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: ")
        assert read(connection).status == 408


def test_headers_of_a_second_request_must_come_in_time_too(
    here: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)
    with connect(here) as connection:
        connection.sendall(head("GET", "/health"))
        assert read(connection).status == 200
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        assert read(connection).status == 408


def test_a_body_must_come_in_time(here: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_BODY_SECONDS", 0.2)
    reply = say(here, post("/v1/completions", ASK)[:-3])
    assert reply.status == 408


def test_bodies_are_bounded(here: Running) -> None:
    too_long = head("POST", "/v1/completions", "Content-Type: application/json",
                    f"Content-Length: {MAX_BODY_BYTES + 1}")  # fmt: skip
    reply = say(here, too_long)
    assert (reply.status, reply.is_error) == (413, True)
    chunked = head("POST", "/v1/completions", "Content-Type: application/json", "Transfer-Encoding: chunked")
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    assert say(here, chunked, *[piece] * (MAX_BODY_BYTES // 0x100000 + 1)).status == 413
    assert say(here, post("/v1/completions", ASK.ljust(MAX_BODY_BYTES))).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_read(here: Running, kind: str) -> None:
    assert say(here, post("/v1/completions", ASK, kind=kind)).status == 415
    assert say(here, post("/v1/completions", ASK, "Content-Encoding: gzip")).status == 415
    assert say(here, post("/v1/completions", ASK, kind="application/json; charset=utf-8")).status == 200


def test_connections_are_counted(here: Running) -> None:
    with ExitStack() as stack:
        held: list[socket.socket] = [stack.enter_context(connect(here)) for _ in range(8)]
        for each in held:
            each.sendall(head("GET", "/health"))
            assert read(each).status == 200
        reply = say(here, head("GET", "/health"))
        assert (reply.status, reply.is_error) == (503, True)
    until(lambda: say(here, head("GET", "/health")).status == 200)
