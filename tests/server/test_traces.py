"""Looking into recent answers: `POST /trace`, on the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from boli.server.answer import Answer
from boli.server.recent import MOST_ANSWERS
from server.running import Running, toy_server
from server.tiny_server import tiny_folder, tiny_server

ASK: dict[str, Any] = {"prompt": "hello there", "max_tokens": 5, "ignore_eos": True}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tiny_folder(tmp_path_factory.mktemp("traces"))
    with tiny_server(folder, trace=True, api_key=("one", "two")) as server:
        yield server


@pytest.fixture
def client(here: Running) -> Iterator[httpx.Client]:
    with here.client(headers={"Authorization": "Bearer one"}) as each:
        yield each


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_an_answer_is_replayed_to_the_last_bit(client: httpx.Client, here: Running, path: str) -> None:
    body = ASK | {"n": 2, "temperature": 0.7}
    if "chat" in path:
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    reply = client.post(path, json=body)
    for choice in (0, 1):
        wish = {"id": reply.json()["id"], "choice": choice, "detail": "summary"}
        document = client.post("/trace", json=wish).json()
        assert document["schema"] == "boli-trace/1"
        assert document["proof"]["compared"] == 5
        assert document["proof"]["largest_logit_difference"] == 0.0
        said = reply.json()["choices"][choice]
        assert document["text"]["answer"] == (said["message"]["content"] if "chat" in path else said["text"])
    by_request = {"id": reply.headers["x-request-id"], "detail": "summary"}
    assert client.post("/trace", json=by_request).status_code == 200
    here.settled()


def test_nobody_sees_the_answers_of_another_key(client: httpx.Client, here: Running) -> None:
    identifier = client.post("/v1/completions", json=ASK).json()["id"]
    with here.client(headers={"Authorization": "Bearer two"}) as other:
        assert other.post("/trace", json={"id": identifier}).status_code == 404
    assert client.post("/trace", json={"id": identifier, "choice": 1}).status_code == 404
    assert client.post("/trace", json={"id": "chatcmpl-nothing"}).status_code == 404
    assert client.post("/trace", json={"id": identifier, "detail": "all"}).status_code == 400


def test_answers_are_kept_until_others_come(client: httpx.Client) -> None:
    first = client.post("/v1/completions", json=ASK | {"max_tokens": 1}).json()["id"]
    for _ in range(MOST_ANSWERS // 16):
        client.post("/v1/completions", json=ASK | {"max_tokens": 1, "n": 16})
    assert client.post("/trace", json={"id": first}).status_code == 404


def test_nothing_is_kept_unless_it_is_wanted(tmp_path: Path) -> None:
    with toy_server(tmp_path) as server, server.client() as client:
        kept: list[Answer] = []
        server.service.on_end.append(kept.append)
        identifier = client.post("/v1/completions", json=ASK).json()["id"]
        reply = client.post("/trace", json={"id": identifier})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "trace_disabled")
        assert len(kept) == 1
        assert not server.context.recent._kept
