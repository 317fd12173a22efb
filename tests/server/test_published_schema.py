"""Replies and chunks are what OpenAI's published schema says, in every shape that boli can give them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from server.published import check, check_event, document
from server.running import Running, toy_server

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "seed": 1}
TEXT = {"prompt": "hello", "max_tokens": 12, "seed": 1}
WAYS: list[dict[str, Any]] = [
    {}, {"n": 3}, {"temperature": 0}, {"stop": ["a", "b"]}, {"ignore_eos": True}, {"max_tokens": 1},
]  # fmt: skip
CHAT_WAYS = [*WAYS, {"logprobs": True}, {"logprobs": True, "top_logprobs": 4, "n": 2}]
TEXT_WAYS = [
    *WAYS, {"logprobs": 0}, {"logprobs": 3, "n": 2}, {"echo": True}, {"best_of": 3},
    {"prompt": ["hello", "你好"]}, {"prompt": [[1, 2, 3], [4]]},
    {"echo": True, "logprobs": 2, "max_tokens": 1, "prompt": [[5, 6, 7]]},
]  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("toy")) as server:
        yield server


@pytest.fixture
def client(here: Running) -> Iterator[httpx.Client]:
    with here.client() as made:
        yield made


def chunks(reply: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a stream of OpenAI's first kind, whose frames are checked too."""
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].split(";")[0] == "text/event-stream"
    frames = reply.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    assert all(frame.startswith("data: {") and "\n" not in frame for frame in frames[:-2])
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


def without_nulls(reply: dict[str, Any]) -> dict[str, Any]:
    """A completion without what the schema leaves out and OpenAI's own server says.

    Those are the first token of an echoed prompt, before which there is nothing, and in a chunk what is
    not known yet.
    """
    choices = []
    for choice in reply["choices"]:
        logprobs = choice["logprobs"]
        if logprobs is not None:
            logprobs = dict(logprobs)
            assert None not in logprobs["token_logprobs"][1:]
            logprobs["token_logprobs"] = [value or 0.0 for value in logprobs["token_logprobs"]]
            logprobs["top_logprobs"] = [value or {} for value in logprobs["top_logprobs"] or []]
        choices.append({**choice, "logprobs": logprobs, "finish_reason": choice["finish_reason"] or "stop"})
    kept = {name: value for name, value in reply.items() if value is not None}
    return {**kept, "choices": choices}


def test_the_schemas_are_schemas() -> None:
    jsonschema.Draft202012Validator.check_schema(document())
    with pytest.raises(AssertionError, match="choices"):
        check("CreateChatCompletionResponse", {"id": "x"})


@pytest.mark.parametrize("way", CHAT_WAYS, ids=str)
def test_chat_completions(client: httpx.Client, way: dict[str, Any]) -> None:
    asked = CHAT | way
    reply = client.post("/v1/chat/completions", json=asked).json()
    check("CreateChatCompletionResponse", reply)
    assert [choice["index"] for choice in reply["choices"]] == list(range(way.get("n", 1)))
    usage = {"stream_options": {"include_usage": True}}
    parts = chunks(client.post("/v1/chat/completions", json=asked | {"stream": True, **usage}))
    for part in parts:
        check("CreateChatCompletionStreamResponse", part)
    assert len({(part["id"], part["created"], part["model"], part["object"]) for part in parts}) == 1
    *told, last = parts
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == reply["usage"]["total_tokens"]
    assert all(part["usage"] is None for part in told)
    for index in range(way.get("n", 1)):
        mine = [c for part in told for c in part["choices"] if c["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert not any("role" in choice["delta"] for choice in mine[1:])
        assert [choice["finish_reason"] is None for choice in mine] == [True] * (len(mine) - 1) + [False]
        assert not mine[-1]["delta"].get("content")
        said = "".join(choice["delta"].get("content") or "" for choice in mine)
        assert said == reply["choices"][index]["message"]["content"]


@pytest.mark.parametrize("way", TEXT_WAYS, ids=str)
def test_completions(client: httpx.Client, way: dict[str, Any]) -> None:
    asked = TEXT | way
    reply = client.post("/v1/completions", json=asked).json()
    check("CreateCompletionResponse", without_nulls(reply))
    if "best_of" in way:
        return
    usage = {"stream_options": {"include_usage": True}}
    *told, last = chunks(client.post("/v1/completions", json=asked | {"stream": True, **usage}))
    for part in told:
        check("CreateCompletionResponse", without_nulls(part))
        assert part["usage"] is None
    assert last["choices"] == []
    assert last["usage"] == reply["usage"] | {"prompt_tokens_details": last["usage"]["prompt_tokens_details"]}
    for choice in reply["choices"]:
        mine = [c for part in told for c in part["choices"] if c["index"] == choice["index"]]
        assert "".join(each["text"] for each in mine) == choice["text"]
        if choice["logprobs"] is not None:
            tokens = [token for each in mine for token in each["logprobs"]["tokens"]]
            assert tokens == choice["logprobs"]["tokens"]


def test_models(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    check("ListModelsResponse", listed)
    for model in listed["data"]:
        check("Model", client.get(f"/v1/models/{model['id']}").json())
    missing = client.get("/v1/models/nothing")
    assert missing.status_code == 404
    check("ErrorResponse", missing.json())


@pytest.mark.parametrize(
    "way", [{}, {"temperature": 0}, {"max_output_tokens": 2}, {"instructions": "be brief"}], ids=str
)
def test_responses(client: httpx.Client, way: dict[str, Any]) -> None:
    asked = {"model": "toy", "input": "hello", "max_output_tokens": 16, **way}
    check("Response", client.post("/v1/responses", json=asked).json())
    streamed = client.post("/v1/responses", json={**asked, "stream": True})
    events = []
    for frame in streamed.text.strip().split("\n\n"):
        kind, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {events[-1]['type']}"
        check_event(events[-1])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    said = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert said == "".join(
        part["text"] for item in events[-1]["response"]["output"] for part in item["content"]
    )


BAD: list[tuple[str, str, Any, int]] = [
    ("POST", "/v1/chat/completions", {"messages": []}, 400),
    ("POST", "/v1/chat/completions", {"messages": "x"}, 400),
    ("POST", "/v1/chat/completions", CHAT | {"model": "nothing"}, 404),
    ("POST", "/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": "x" * 5000}]}, 400),
    ("POST", "/v1/chat/completions", CHAT | {"logit_bias": {"x": 1}}, 400),
    ("POST", "/v1/completions", TEXT | {"prompt": []}, 400),
    ("POST", "/v1/completions", TEXT | {"prompt": [10**6]}, 400),
    ("POST", "/v1/completions", TEXT | {"suffix": "x"}, 400),
    ("POST", "/v1/embeddings", {"model": "toy"}, 400),
    ("POST", "/v1/responses", {"model": "toy", "input": 5}, 400),
    ("GET", "/v1/chat/completions", None, 405),
    ("GET", "/nothing", None, 404),
    ("DELETE", "/v1/models/toy", None, 405),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), BAD, ids=str)
def test_errors(client: httpx.Client, method: str, path: str, body: Any, status: int) -> None:
    for extra in ({}, {"stream": True}) if isinstance(body, dict) and "embeddings" not in path else ({},):
        reply = client.request(method, path, json=None if body is None else body | extra)
        assert reply.status_code == status, reply.text
        check("ErrorResponse", reply.json())
        assert set(reply.json()) == {"error"}
        if status == 405:
            assert reply.headers["allow"]
