"""What is too much or makes no sense is refused at once, before anything is copied or computed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from boli.server import limits, protocol
from server.raw_http import Reply, connect, head, post, read, say
from server.running import Running, toy_server, until

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
TEXT: dict[str, Any] = {"prompt": "hello", "max_tokens": 2}
DEEP: dict[str, Any] = {}
for _ in range(200):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("toy")) as server:
        yield server


def str_of(change: dict[str, Any]) -> str:
    """A short name of a parameter."""
    return json.dumps(change)[:60]


def refused(here: Running, path: str, body: bytes, status: int = 400) -> None:
    """Asks for too much: the refusal is an error in the right form, nothing ran, and nothing is left."""
    steps = len(here.llm._engine.runner.rows)  # type: ignore[attr-defined]  # the toy counts them
    reply = say(here, post(path, body))
    assert reply.status == status, (body[:200], reply.body[:300])
    assert reply.is_error
    assert len(reply.body) < 4096  # what was sent is not sent back
    assert len(here.llm._engine.runner.rows) == steps  # type: ignore[attr-defined]
    assert here.busy() == (0, 0, 0)


TOO_MUCH_CHAT: list[dict[str, Any]] = [
    {"n": limits.MAX_CHOICES + 1}, {"n": 0}, {"n": True}, {"n": 1.5}, {"n": 2**70}, {"n": "2"},
    {"top_logprobs": 21, "logprobs": True}, {"top_logprobs": 2}, {"logprobs": 1},
    {"stop": ["x"] * 17}, {"stop": "x" * 257}, {"stop": ""}, {"stop": [""]},
    {"logit_bias": {str(n): 1 for n in range(1025)}}, {"logit_bias": {"1": 101}}, {"logit_bias": {"-1": 1}},
    {"logit_bias": {"260": 1}}, {"logit_bias": {"1e3": 1}}, {"logit_bias": [1]},
    {"messages": CHAT["messages"] * 1025}, {"messages": []}, {"messages": None},
    {"messages": [{"role": "god", "content": "x"}]}, {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": "x" * 600}]},
    {"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)]},
    {"max_tokens": 0}, {"max_tokens": -1}, {"max_tokens": 1e3}, {"max_completion_tokens": 0},
    {"temperature": -0.1}, {"temperature": 2.1}, {"temperature": True}, {"temperature": "1"},
    {"top_p": 1.1}, {"top_p": -1}, {"min_p": 2}, {"top_k": -2}, {"presence_penalty": 2.1},
    {"frequency_penalty": -2.1}, {"repetition_penalty": 0}, {"repetition_penalty": -1},
    {"seed": 2**64}, {"seed": 1.5}, {"seed": "x"}, {"stream": "yes"}, {"stream": 1},
    {"stream_options": {"include_usage": True}}, {"model": "x" * 300}, {"model": 5},
    {"response_format": {"type": "sound"}}, {"response_format": {"type": "json_schema"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 123}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "hiccup"}}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": DEEP}}},
    {"tool_choice": "required"}, {"functions": []}, {"temprature": 1}, {"suffix": "x"}, {"best_of": 2},
]  # fmt: skip
TOO_MUCH_TEXT: list[dict[str, Any]] = [
    {"best_of": 21}, {"best_of": 1, "n": 2}, {"best_of": 2, "stream": True},
    {"logprobs": 21}, {"logprobs": True},
    {"prompt": ["x"] * 65}, {"prompt": ["x"] * 64, "n": 3}, {"prompt": []}, {"prompt": ""}, {"prompt": [[]]},
    {"prompt": [260]}, {"prompt": [-1]}, {"prompt": [1.5]}, {"prompt": [True]}, {"prompt": [1, "x"]},
    {"prompt": "x" * 600}, {"prompt": None}, {"max_tokens": 0}, {"suffix": "x"}, {"messages": []},
    {"prompt": [2**40]}, {"prompt": [[1], ["x"]]}, {"prompt": {"a": 1}},
]  # fmt: skip


@pytest.mark.parametrize("change", TOO_MUCH_CHAT, ids=str_of)
def test_too_much_for_a_chat(here: Running, change: dict[str, Any]) -> None:
    refused(here, "/v1/chat/completions", json.dumps({**CHAT, **change}).encode())


@pytest.mark.parametrize("change", TOO_MUCH_TEXT, ids=str_of)
def test_too_much_for_a_completion(here: Running, change: dict[str, Any]) -> None:
    refused(here, "/v1/completions", json.dumps({**TEXT, **change}).encode())


BROKEN: list[bytes] = [
    b"", b"{", b"null", b"[]", b"5", b'"x"', b"\xff\xfe", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}',
    b'{"prompt": "x", "temperature": NaN}', b'{"prompt": "x", "temperature": Infinity}',
    b'{"prompt": "x", "temperature": 1e400}', b'{"prompt": "x", "seed": 1' + b"0" * 5000 + b"}",
    b"[" * 100_000, b'{"prompt":' + b"[" * 100_000, b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    b'{"prompt": "x"} {"prompt": "x"}', b"\xef\xbb\xbf{}", b'{"prompt": "x"', b'{"prompt": "x",}',
    b'{"\\ud800": 1, "prompt": "x"}', b'{"prompt": "a\x00b", "x": 1}',
]  # fmt: skip


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:30]))
@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/embeddings"]
)
def test_bodies_that_are_none(here: Running, path: str, body: bytes) -> None:
    refused(here, path, body)


def test_bodies_that_are_too_large(here: Running) -> None:
    most = limits.MAX_BODY_BYTES
    before = psutil.Process().memory_info().rss
    whole = head("POST", "/v1/completions", "Content-Type: application/json", f"Content-Length: {most + 1}")
    assert say(here, whole).status == 413  # before it has been sent
    endless = head("POST", "/v1/completions", "Content-Type: application/json", "Transfer-Encoding: chunked")
    chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    reply = say(here, endless, *[chunk] * 1024)
    assert reply.status in (0, 413)  # it is closed while we still send, and the words may be lost in that
    assert psutil.Process().memory_info().rss - before < 100e6
    huge = head("POST", "/v1/completions", "Content-Type: application/json", f"Content-Length: {10**30}")
    assert say(here, huge).status in (400, 413)
    fine = json.dumps({**TEXT, "user": "x" * (most - 1000)}).encode()
    assert say(here, post("/v1/completions", fine)).status in (200, 400)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_compressed_bodies_are_refused(here: Running, encoding: str) -> None:
    assert say(here, post("/v1/completions", b"\x1f\x8b", f"Content-Encoding: {encoding}")).status == 415


def test_headers_have_bounds(here: Running) -> None:
    for wrong in (
        head("GET", "/health", *[f"x-{n}: y" for n in range(10_000)]),
        head("GET", "/health", f"x: {'y' * 1_000_000}"),
        head("GET", "/" + "a" * 1_000_000),
        b"GET / HTTP/1.1\r\n" + b"x" * 1_000_000,
    ):
        assert say(here, wrong).status in (0, 400, 431)
    for wrong in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    ):
        with connect(here) as connection:
            connection.sendall(wrong)
            connection.shutdown(1)
            assert read(connection).status in (0, 400, 403, 415, 431, 505), wrong
    assert say(here, head("GET", "/health")).status == 200


def test_whoever_is_too_slow_is_let_go(here: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)
    slow = [connect(here) for _ in range(20)]
    try:
        for index, connection in enumerate(slow):
            if index % 2:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        assert say(here, head("GET", "/health")).status == 200
        for connection in slow:
            assert read(connection).status in (0, 408)
    finally:
        for connection in slow:
            connection.close()


def test_there_are_only_so_many_connections(tmp_path_factory: pytest.TempPathFactory) -> None:
    with toy_server(tmp_path_factory.mktemp("few"), server={"max_connections": 5}) as few:
        kept = [connect(few) for _ in range(5)]
        try:
            for connection in kept:
                connection.sendall(head("GET", "/health"))
                assert read(connection).status == 200
            until(lambda: say(few, head("GET", "/health")).status == 503)
        finally:
            for connection in kept:
                connection.close()
        until(lambda: say(few, head("GET", "/health")).status == 200)


def test_the_queue_has_an_end_and_says_so_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    gate = threading.Event()
    folder = tmp_path_factory.mktemp("queue")
    with toy_server(folder, server={"max_queue": 3}, hook=lambda *_: gate.wait(60) and None) as small:
        replies: list[Reply] = []
        body = post("/v1/completions", json.dumps(TEXT).encode())
        first = threading.Thread(target=lambda: replies.append(say(small, body)))
        first.start()
        until(lambda: len(small.llm._engine.scheduler.running) == 1)
        waiting = [threading.Thread(target=lambda: replies.append(say(small, body))) for _ in range(3)]
        for thread in waiting:
            thread.start()
        until(lambda: small.service.waiting == 3)
        for _ in range(20):
            start = time.process_time()
            reply = say(small, body)
            assert reply.status == 429
            assert reply.is_error
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert time.process_time() - start < 0.1
        assert say(small, head("GET", "/health")).status == 200
        gate.set()
        for thread in (first, *waiting):
            thread.join()
        assert [reply.status for reply in replies] == [200] * 4
        small.settled()
