"""Chat completions on the wire: frames, usage, several answers, seeds, stops, receipts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from boli.engine.batch import Batch, Float32
from boli.server import chat, sse
from server.running import Running, toy_server

QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 12}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("chat")) as server:
        yield server


@pytest.fixture
def client(here: Running) -> Iterator[httpx.Client]:
    with here.client() as each:
        yield each


def whole(client: httpx.Client, **wish: Any) -> Any:
    reply = client.post("/v1/chat/completions", json=QUESTION | wish)
    assert reply.status_code == 200, reply.text
    return reply.json()


def frames(client: httpx.Client, **wish: Any) -> list[Any]:
    """The chunks of a stream, once its grammar is found to be right to the byte."""
    reply = client.post("/v1/chat/completions", json=QUESTION | wish | {"stream": True})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    *data, done, end = reply.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert all(each.startswith("data: {") and "\n" not in each for each in data)
    return [json.loads(each.removeprefix("data: ")) for each in data]


def test_a_stream_is_as_clients_expect_it(client: httpx.Client) -> None:
    chunks = frames(client, temperature=0)
    first, *middle, last = chunks
    for name in ("id", "created", "model", "object", "system_fingerprint"):
        assert len({chunk[name] for chunk in chunks}) == 1
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(set(chunk["choices"][0]["delta"]) == {"content"} for chunk in middle)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in (first, *middle))
    assert last["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle)
    assert text == whole(client, temperature=0)["choices"][0]["message"]["content"]
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_comes_last_and_counts_what_the_cache_knew(client: httpx.Client) -> None:
    long = [{"role": "user", "content": "a rather long question " * 4}]
    before = whole(client, messages=long, temperature=0)["usage"]
    *chunks, last = frames(client, messages=long, temperature=0, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 12
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + 12
    assert before["prompt_tokens_details"]["cached_tokens"] == 0
    cached = last["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert 0 < cached < last["usage"]["prompt_tokens"] == before["prompt_tokens"]


def test_usage_may_come_with_every_chunk(client: httpx.Client) -> None:
    wish = {"include_usage": True, "continuous_usage_stats": True}
    chunks = frames(client, ignore_eos=True, stream_options=wish)[1:]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 12


def test_several_answers_share_a_stream_and_a_prompt(client: httpx.Client) -> None:
    chunks = frames(client, n=3, seed=5, ignore_eos=True, stream_options={"include_usage": True})
    texts = ["", "", ""]
    ends = []
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        ends += [choice["index"]] if choice["finish_reason"] else []
    assert sorted(ends) == [0, 1, 2]
    reply = whole(client, n=3, seed=5, ignore_eos=True)
    assert [each["message"]["content"] for each in reply["choices"]] == texts
    assert [each["index"] for each in reply["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    one = whole(client, seed=5, ignore_eos=True)
    assert one["choices"][0]["message"]["content"] == texts[0]
    assert reply["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert reply["usage"]["completion_tokens"] == 36 == chunks[-1]["usage"]["completion_tokens"]


def test_a_seed_repeats_and_without_one_answers_differ(client: httpx.Client) -> None:
    def text(**wish: Any) -> str:
        content: str = whole(client, **wish)["choices"][0]["message"]["content"]
        return content

    assert text(seed=7) == text(seed=7) != text(seed=8)
    assert len({text() for _ in range(3)}) > 1
    assert text(temperature=0) == text(temperature=0, seed=3)
    assert text(top_p=0) == text(temperature=0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_never_shows(client: httpx.Client, stream: bool) -> None:
    full = whole(client, temperature=0, max_tokens=24)["choices"][0]["message"]["content"]
    for start in (0, 3, 7):
        stop = full[start : start + 3]
        cut = full[: full.index(stop)]
        if stream:
            *chunks, last = frames(client, temperature=0, max_tokens=24, stop=["§§", stop])
            text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
            reason = last["choices"][0]["finish_reason"]
        else:
            choice = whole(client, temperature=0, max_tokens=24, stop=[stop])["choices"][0]
            text, reason = choice["message"]["content"], choice["finish_reason"]
        assert (text, reason) == (cut, "stop")


def test_log_probabilities_cover_the_text(client: httpx.Client) -> None:
    choice = whole(client, temperature=0, logprobs=True, top_logprobs=2)["choices"][0]
    entries = choice["logprobs"]["content"]
    assert choice["logprobs"]["refusal"] is None
    joined = bytes(byte for each in entries for byte in each["bytes"]).decode(errors="replace")
    assert joined == choice["message"]["content"]
    for each in entries:
        assert len(each["top_logprobs"]) == 2
        assert each["top_logprobs"][0]["logprob"] == each["logprob"]
    streamed = frames(client, temperature=0, logprobs=True, top_logprobs=2)
    parts = [chunk["choices"][0]["logprobs"] for chunk in streamed]
    assert [each for part in parts if part for each in part["content"]] == entries


def test_a_slow_stream_is_kept_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "KEEP_ALIVE_SECONDS", 0.01)

    def slow(_batch: Batch, _logits: Float32) -> None:
        time.sleep(0.05)

    with toy_server(tmp_path, hook=slow) as server, server.client() as client:
        reply = client.post("/v1/chat/completions", json=QUESTION | {"stream": True, "temperature": 0})
    comment = sse.KEEP_ALIVE.decode().removesuffix("\n\n")
    parts = reply.text.split("\n\n")
    assert comment in parts
    assert all(each == comment or each.startswith("data: ") for each in parts if each)


def test_a_receipt_says_what_an_answer_took(client: httpx.Client) -> None:
    reply = client.post("/v1/chat/completions", json=QUESTION | {"n": 2, "ignore_eos": True})
    assert "boli" not in reply.json()
    stats = client.get("/stats").json()
    mine = stats["recent"][0]
    assert mine["id"].removeprefix("req-") == reply.json()["id"].removeprefix("chatcmpl-")
    assert mine["generated_tokens"] == 12
    assert mine["why_waited"] == "did not wait"
    assert mine["queued_s"] + mine["prefill_s"] + mine["decode_s"] == pytest.approx(mine["total_s"])


def test_another_model_is_not_here(client: httpx.Client, here: Running) -> None:
    reply = client.post("/v1/chat/completions", json=QUESTION | {"model": "gpt-4"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert whole(client, model=here.context.model)["model"] == here.context.model


@pytest.mark.parametrize("stream", [False, True])
def test_too_long_a_prompt_is_refused_before_anything_is_sent(client: httpx.Client, stream: bool) -> None:
    long = [{"role": "user", "content": "x" * 600}]
    reply = client.post("/v1/chat/completions", json={"messages": long, "stream": stream})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
def test_a_bias_outside_the_vocabulary_is_refused(client: httpx.Client, stream: bool) -> None:
    reply = client.post("/v1/chat/completions", json=QUESTION | {"logit_bias": {"260": 1}, "stream": stream})
    assert reply.status_code == 400
    assert "260" in reply.json()["error"]["message"]


def test_without_a_limit_the_answer_may_fill_the_context(client: httpx.Client) -> None:
    wish = {"messages": QUESTION["messages"], "ignore_eos": True, "temperature": 0}
    reply = client.post("/v1/chat/completions", json=wish).json()
    assert reply["usage"]["total_tokens"] == 512
    huge = client.post("/v1/chat/completions", json=wish | {"max_tokens": 2**31 - 1}).json()
    assert huge["choices"] == reply["choices"]


def test_a_model_without_a_template_cannot_chat(tmp_path: Path) -> None:
    with toy_server(tmp_path, chat_template=None) as server, server.client() as client:
        reply = client.post("/v1/chat/completions", json=QUESTION)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "template")
        assert client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200
