"""Promises about strangers: keys, hosts, what is never fetched, and what others never learn."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pytest

from boli.server.logs import Lines
from boli.server.pages import Pages
from server.raw_http import Reply, connect, head, post, read, say
from server.running import Running, toy_server

KEYS = ("sk-first", "sk-second")
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
PAGES = Pages().paths


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("open")) as server:
        yield server


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("locked"), server={"api_key": KEYS}) as server:
        yield server


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}"


def ask(here: Running, path: str, body: Any, *headers: str) -> Reply:
    return say(here, post(path, json.dumps(body).encode(), *headers))


# --- S13, S14, S20: routes and keys -------------------------------------------------------------

KNOWN = {
    "/api/chat", "/api/embed", "/api/generate", "/api/ps", "/api/show", "/api/tags", "/api/version",
    "/detokenize", "/health", "/metrics", "/openapi.json", "/ready", "/stats", "/tokenize",
    "/tokenizer_info", "/trace", "/v1/chat/completions", "/v1/completions", "/v1/embeddings",
    "/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/v1/models/{name:path}", "/v1/responses",
    "/v1/responses/{identifier}", "/version",
}  # fmt: skip


def routes(here: Running) -> set[tuple[str, str]]:
    """Every method and path of the application, the hidden ones too."""
    found: set[tuple[str, str]] = set()
    todo: list[Any] = list(here.app.routes)
    while todo:
        each = todo.pop()
        inner = getattr(each, "original_router", None)
        if inner is None:
            found |= {(method, each.path) for method in each.methods}
        else:
            todo += inner.routes
    return found


def test_there_are_these_routes_and_no_others(here: Running) -> None:
    """None loads files, changes weights or ends the engine; a new one has to be written down here."""
    assert {path for _, path in routes(here)} - PAGES == KNOWN


@pytest.mark.parametrize("key", [None, "", "sk-wrong", "sk-firs", "sk-firstt", "ключ", "sk-first,sk-second"])
def test_without_a_right_key_only_what_is_open_answers(locked: Running, key: str | None) -> None:
    headers = [] if key is None else [bearer(key)]
    for method, path in sorted(routes(locked)):
        place = path.replace("{name:path}", "toy").replace("{identifier}", "x")
        reply = say(locked, head(method, place, "Content-Length: 0", *headers))
        open_to_all = path == "/health" or path in PAGES
        assert reply.status == (200 if open_to_all else 401), (method, place)
    for trick in ("//v1/models", "/%2fv1/models", "/v1/models/", "/v1//models", "/health/../v1/models",
                  "/health%2f..%2fv1/models", "/v1/models?x=/health", "/v1/models;/health",
                  "http://127.0.0.1/v1/models", "/nothing", "*"):  # fmt: skip
        assert say(locked, head("GET", trick, *headers)).status in (400, 401), trick
    for host in ("127.0.0.1/health?", "127.0.0.1/health#", "127.0.0.1@evil", "localhost/health"):
        for path in ("/v1/models", "@evil/health"):
            assert say(locked, head("GET", path, *headers, host=host)).status in (400, 401, 403), host


def test_each_right_key_opens(locked: Running) -> None:
    for key in KEYS:
        for given in (bearer(key), f"authorization: bearer {key}", f"X-API-Key: {key}"):
            assert say(locked, head("GET", "/v1/models", given)).status == 200, given
    reply = ask(locked, "/v1/chat/completions", CHAT)
    assert reply.status == 401
    assert reply.is_error
    assert reply.headers["www-authenticate"] == "Bearer"


def test_keys_are_compared_as_a_whole() -> None:
    """In constant time, which a clock cannot prove on a busy machine: the source must say so."""
    from boli.server import auth

    source = Path(auth.__file__).read_text()
    assert "compare_digest" in source
    loop = source.partition("def caller(")[2].partition("def _given")[0]
    assert "break" not in loop
    assert not re.search(r"return caller\b", loop)


# --- S15: pages of other sites ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("localhost", 200), ("LOCALHOST:8000", 200), ("[::1]:8000", 200),
        ("my.localhost", 200), ("192.168.1.5", 200), (socket.gethostname(), 200), ("evil.example", 403),
        ("localhost.evil.example", 403), ("127.0.0.1.nip.example", 403), ("8.8.8.8", 403), ("", 403),
        ("localhost:x", 403), ("evil.example:127.0.0.1", 403),
    ],
)  # fmt: skip
def test_only_names_of_this_machine_are_answered(here: Running, host: str, status: int) -> None:
    reply = say(here, head("GET", "/v1/models", host=host))
    assert reply.status == status
    if status == 403:
        assert reply.is_error


def test_a_request_needs_one_host(here: Running) -> None:
    assert say(here, head("GET", "/v1/models", host=None)).status in (400, 403)
    assert say(here, head("GET", "/v1/models", "Host: evil.example")).status in (400, 403)


def test_pages_of_other_sites_cannot_use_it(here: Running) -> None:
    origin = "Origin: https://evil.example"
    reply = say(here, head("GET", "/v1/models", origin))
    assert not any(name.startswith("access-control") for name in reply.headers)
    asked = "Access-Control-Request-Method: POST"
    preflight = say(here, head("OPTIONS", "/v1/chat/completions", origin, asked))
    assert preflight.status == 403
    assert not any(name.startswith("access-control") for name in preflight.headers)
    body = json.dumps(CHAT).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert say(here, post("/v1/chat/completions", body, kind=kind)).status == 415, kind


# --- S9: nothing is fetched ---------------------------------------------------------------------


@contextmanager
def listener() -> Iterator[tuple[str, list[bytes]]]:
    """A place on the loopback, and what came to it."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    heard.append(connection.recv(100))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", heard
        finally:
            ended.set()
            thread.join()


def test_nothing_that_a_request_names_is_fetched(here: Running) -> None:
    with listener() as (place, heard):
        image_of_a_message = {"type": "image", "source": {"type": "url", "url": place}}
        image = {"type": "image_url", "image_url": {"url": f"{place}/a.png"}}
        file = {"type": "file", "file": {"file_url": f"{place}/a"}}
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": f"{place}/schema"}}}
        said = {"role": "user", "content": f"![x]({place}/b.png) <img src='{place}/c'> file:///etc/passwd"}
        bodies: list[tuple[str, Any, int]] = [
            ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": [image]}]}, 400),
            ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": [file]}]}, 400),
            ("/v1/chat/completions", {**CHAT, "messages": [said]}, 200),
            ("/v1/chat/completions", {**CHAT, "response_format": schema}, 400),
            ("/v1/chat/completions", {**CHAT, "chat_template": f"{{% include '{place}' %}}"}, 400),
            ("/v1/responses", {"model": "toy", "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": f"{place}/d"}]}]}, 400),
            ("/v1/messages", {"model": "toy", "max_tokens": 2, "messages": [
                {"role": "user", "content": [image_of_a_message]}]}, 400),
            ("/api/chat", {"model": "toy", "messages": [
                {"role": "user", "content": "x", "images": [place]}]}, 400),
        ]  # fmt: skip
        for path, body, status in bodies:
            reply = ask(here, path, body, f"X-Request-Id: {place}", f"Referer: {place}")
            assert reply.status == status, (path, reply.body)
    assert not heard


# --- S4: templates of requests ------------------------------------------------------------------


def test_templates_of_requests_are_not_rendered(here: Running) -> None:
    for change in (
        {"chat_template": "{{ 1 }}"},
        {"chat_template": "{% for i in range(10**9) %}{% endfor %}"},
        {"chat_template_kwargs": {"tokenize": True}},
        {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
        {"chat_template_kwargs": {"messages": "x"}},
        {"chat_template_kwargs": {"add_generation_prompt": False}},
    ):
        reply = ask(here, "/v1/chat/completions", {**CHAT, **change})
        assert reply.status == 400, (change, reply.body)
        assert reply.is_error


# --- S17, S18: logs and identifiers -------------------------------------------------------------

FORGED = "x\r\n2026-01-01T00:00:00Z error   forged"
CANARY = "the-prompt-canary"


def test_no_line_of_the_log_can_be_forged_and_no_secret_is_in_it(
    locked: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "boli.server")
    body = {**CHAT, "messages": [{"role": "user", "content": CANARY}], "user": FORGED}
    key = bearer(KEYS[0])
    ask(locked, "/v1/chat/completions?x=%0d%0aforged", body, key, "X-Request-Id: a\x1b[31mred")
    ask(locked, "/v1/chat/completions", {**body, "model": FORGED}, key)
    ask(locked, "/v1/chat/completions", {**body, FORGED: 1}, key)
    say(locked, head("GET", "/%0d%0a2026-01-01T00:00:00Z%20error%20forged%1b%5b31m", key))
    say(locked, head("GET", "/v1/models", bearer("sk-a-wrong-key")))
    assert caplog.records
    styles: tuple[Literal["text", "json"], ...] = ("text", "json")
    for style in styles:
        for record in caplog.records:
            line = Lines(style).format(record)
            assert line.isprintable(), line
            assert not line.startswith("2026-01-01")
            for secret in (CANARY, *KEYS, "sk-a-wrong-key"):
                assert secret not in line


def test_the_clients_identifier_is_only_echoed(here: Running) -> None:
    """Two requests at once with one identifier: both are answered, each for itself."""
    replies = [None, None]  # type: list[Reply | None]

    def one(index: int) -> None:
        body = {"prompt": f"question {index}", "max_tokens": 60, "temperature": 0, "ignore_eos": True}
        replies[index] = ask(here, "/v1/completions", body, "X-Request-Id: the-same")

    threads = [threading.Thread(target=one, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = replies
    assert first is not None
    assert second is not None
    assert first.headers["x-request-id"] == second.headers["x-request-id"] == "the-same"
    assert first.document["id"] != second.document["id"]
    for index, reply in enumerate((first, second)):
        alone = {"prompt": f"question {index}", "max_tokens": 60, "temperature": 0, "ignore_eos": True}
        assert reply.document["choices"] == ask(here, "/v1/completions", alone).document["choices"]
    for bad in ("a b", "x" * 129, "\x01", "é"):
        shown = ask(here, "/v1/completions", {"prompt": "x", "max_tokens": 1}, f"X-Request-Id: {bad}")
        assert shown.status in (200, 400)
        assert shown.headers.get("x-request-id", "").startswith(("req-", "")) and "\r" not in str(
            shown.headers
        )


# --- S19: what one key has computed --------------------------------------------------------------


def test_one_keys_prompt_is_not_known_to_another(locked: Running) -> None:
    body = {"prompt": "a secret of the first key, long enough for some pages " * 4, "max_tokens": 1}

    def cached(key: str) -> int:
        usage = ask(locked, "/v1/completions", body, bearer(key)).document["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert [cached(KEYS[0]), cached(KEYS[0]) > 0, cached(KEYS[1]), cached(KEYS[1]) > 0] == [0, True, 0, True]


# --- S16, S21, and HTTP itself -------------------------------------------------------------------


def test_the_page_may_load_from_here_only(here: Running) -> None:
    for path in PAGES:
        reply = say(here, head("GET", path))
        assert reply.status == 200
        policy = reply.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe-eval" not in policy
        assert not re.search(r"script-src[^;]*'unsafe-inline'", policy)
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_what_is_installed_has_no_known_holes() -> None:
    def numbers(package: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version(package).split(".")[:3] if part.isdecimal())

    assert numbers("starlette") >= (1, 3, 0)
    assert numbers("jinja2") >= (3, 1, 6)
    with pytest.raises(ModuleNotFoundError):
        __import__("litellm")


def test_a_connection_goes_on_after_an_error(here: Running) -> None:
    with connect(here) as connection:
        wrongs: list[dict[str, Any]] = [{"messages": []}, {"messages": 1}, {**CHAT, "n": 99}]
        for wrong in wrongs:
            connection.sendall(post("/v1/chat/completions", json.dumps(wrong).encode()))
            assert read(connection).status == 400
        connection.sendall(head("GET", "/nothing"))
        assert read(connection).status == 404
        connection.sendall(head("HEAD", "/v1/chat/completions"))
        data = connection.recv(65536)
        assert data.startswith(b"HTTP/1.1 405")
        connection.sendall(post("/v1/chat/completions", json.dumps(CHAT).encode()))
        assert read(connection).status == 200


def test_a_client_may_wait_to_be_asked_for_the_body(here: Running) -> None:
    body = json.dumps(CHAT).encode()
    with connect(here) as connection:
        connection.sendall(post("/v1/chat/completions", b"", "Expect: 100-continue").replace(
            b"Content-Length: 0", b"Content-Length: %d" % len(body)))  # fmt: skip
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert read(connection).status == 200


def test_http_1_0_and_pipelining(here: Running) -> None:
    with connect(here) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert read(connection).status == 200
    with connect(here) as connection:
        connection.sendall(head("GET", "/health") * 3)
        data = b""
        while data.count(b'{"status":"ok"}') < 3:
            more = connection.recv(65536)
            assert more, data
            data += more
