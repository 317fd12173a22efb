"""Looking into recent answers: `POST /trace`, on the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from boli.errors import UsageError
from boli.server.answer import Answer
from boli.server.recent import MOST_ANSWERS
from boli.trace import Trace
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


FORMS: dict[str, dict[str, Any]] = {
    "json_schema": {"guided_json": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    "regex": {"guided_regex": "[a-f]{3,9}"},
    "lark": {"guided_grammar": 'start: "x"+ "y"'},
    "gbnf": {"guided_grammar": 'root ::= [x-z]+ "."'},
}


@pytest.mark.parametrize("kind", FORMS)
def test_the_grammar_of_an_answer_is_part_of_its_trace(
    client: httpx.Client, here: Running, kind: str
) -> None:
    wish = {"prompt": "hello there", "max_tokens": 5, "temperature": 0.9, "seed": 3} | FORMS[kind]
    reply = client.post("/v1/completions", json=wish).raise_for_status().json()
    document = client.post("/trace", json={"id": reply["id"], "detail": "summary"}).json()
    assert document["run"]["constraint"]["kind"] == kind
    assert document["proof"]["sampler_reproduced"] == document["proof"]["compared"] > 0
    for decision in document["decisions"]:
        sampler = decision["sampler"]
        assert "grammar" in sampler["order"]
        assert 1 <= sampler["grammar"]["allowed"] < sampler["grammar"]["vocabulary"]
        assert sampler["rest"]["count"] + len(sampler["candidates"]) == sampler["grammar"]["allowed"]
        assert 0 < sampler["grammar"]["probability"] < 1
    trace = Trace(document)
    with pytest.raises(UsageError, match="grammar"):
        trace.sampler[0].what_if(temperature=0.0)
    here.settled()


def test_nobody_is_told_where_the_model_lies(client: httpx.Client, here: Running) -> None:
    """A model that was loaded from a folder is called what the folder is called."""
    folder = here.llm.path
    answer = client.post("/v1/completions", json=ASK)
    replies = [answer, client.post("/trace", json={"id": answer.json()["id"], "detail": "summary"})]
    replies += [client.post("/api/show", json={"model": folder.name})]
    replies += [client.get(f"/{path}") for path in ("version", "metrics", "stats", "api/tags", "api/ps")]
    assert {reply.status_code for reply in replies} == {200}
    replies += [client.post("/v1/completions", json=ASK | {"model": str(folder)}), client.get("/v1/models")]
    assert [reply.status_code for reply in replies[-2:]] == [404, 200]
    assert [model["id"] for model in replies[-1].json()["data"]] == [folder.name]
    assert answer.json()["model"] == replies[1].json()["model"]["name"] == folder.name
    told = [reply.request.url.path for reply in replies if str(folder.parent) in reply.text]
    assert told == ["/v1/completions"]  # what the client itself had written


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
