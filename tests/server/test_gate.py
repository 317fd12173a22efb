"""The gate: the form of its refusals, pages of other origins, and what escapes from a route."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx
import pytest
from fastapi import Request

from boli.server import logs
from server.running import Running, toy_server

ORIGIN = "https://chat.example"
ASK = {"prompt": "x", "max_tokens": 1}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {"api_key": ("key",), "allowed_origins": (ORIGIN,)}
    with toy_server(tmp_path_factory.mktemp("gate"), server=settings) as server:
        yield server


@pytest.fixture
def client(here: Running) -> Iterator[httpx.Client]:
    with here.client() as each:
        yield each


def test_each_api_refuses_in_its_own_form(client: httpx.Client) -> None:
    assert client.get("/v1/models").json()["error"]["code"] == "invalid_api_key"
    assert client.post("/v1/messages").json()["error"]["type"] == "authentication_error"
    assert isinstance(client.post("/api/chat").json()["error"], str)
    client.headers["Authorization"] = "Bearer key"
    openai, anthropic, ollama = (client.get(path) for path in ("/v1/x", "/v1/messages/x", "/api/x"))
    assert [each.status_code for each in (openai, anthropic, ollama)] == [404] * 3
    assert set(openai.json()["error"]) == {"message", "type", "param", "code"}
    assert (anthropic.json()["type"], ollama.json()) == ("error", {"error": "there is no such page"})


def test_a_wrong_method_is_told_the_right_one(client: httpx.Client) -> None:
    client.headers["Authorization"] = "Bearer key"
    reply = client.get("/v1/chat/completions")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("origin", [ORIGIN, "https://evil.example", ORIGIN + ".evil.example", "null"])
def test_only_pages_of_allowed_origins_may_ask(client: httpx.Client, origin: str) -> None:
    asking = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    before = client.options("/v1/completions", headers=asking)
    reply = client.post(
        "/v1/completions", json=ASK, headers={"Origin": origin, "Authorization": "Bearer key"}
    )
    shown = "access-control-allow-origin"
    if origin == ORIGIN:
        assert (before.status_code, before.headers[shown], reply.headers[shown]) == (204, ORIGIN, ORIGIN)
        assert "Authorization" in before.headers["access-control-allow-headers"]
    else:
        assert before.status_code == 403
        assert shown not in {**before.headers, **reply.headers}
    assert "access-control-allow-credentials" not in reply.headers


def test_what_escapes_from_a_route_is_one_requests_trouble(
    here: Running, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_request: Request) -> None:
        raise RuntimeError("a canary")

    here.app.add_api_route("/broken", broken)
    client.headers["Authorization"] = "Bearer key"
    with caplog.at_level(logging.ERROR):
        reply = client.get("/broken")
    assert (reply.status_code, reply.json()["error"]["type"]) == (500, "server_error")
    assert "canary" not in reply.text
    (record,) = [each for each in caplog.records if each.name == "boli.server.access"]
    line = logs.Lines("text").format(record)
    assert "error=RuntimeError" in line
    assert "broken" in line
    assert "canary" not in line
    assert client.get("/v1/models").status_code == 200


def test_the_log_shows_no_control_characters() -> None:
    record = logging.LogRecord("boli.server", logging.INFO, "", 0, "event", None, None)
    record.fields = {"path": "/x\r\n\x1b[31mforged id=1", "plain": 3, "empty": ""}
    for style in ("text", "json"):
        line = logs.Lines(style).format(record)
        assert line.isprintable()
    assert 'path="/x\\r\\n\\u001b[31mforged id=1" plain=3 empty=""' in logs.Lines("text").format(record)
