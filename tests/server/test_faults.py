"""Something breaks in one request, at each stage of its way; its neighbours do not lose a byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from boli.engine.batch import Batch, Float32
from boli.engine.request import Request
from boli.engine.sampling import Sampled
from boli.engine.scheduler import Scheduler
from boli.server.chat import ChatWriter
from engine.toy_engine import marked
from engine.toy_llm import MERGED
from server.running import PATIENCE, Running, toy_server

MARK = "th"  # one token, which is in no other prompt, and no answer may have
NEIGHBOURS = ["a", "bc", "some words", "你好", "x" * 40, "🙂", "1 + 1 ="]


class Fault(Exception):
    """Nobody expects it."""


def failing(real: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
    """The same function, which breaks sometimes."""

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if when(*arguments):
            raise Fault("here it breaks")
        return real(*arguments, **named)

    return wrapped


def mentions(*arguments: object) -> bool:
    return MARK in str(arguments[1])


def is_marked(_scheduler: object, request: Request, *_rest: object) -> bool:
    return MERGED in request.tokens


def writes_marked(writer: ChatWriter, *_rest: object) -> bool:
    return any(MARK in str(message.content) for message in writer._request.messages)


def break_tokenizer(here: Running, patch: pytest.MonkeyPatch) -> None:
    kind = type(here.llm.tokenizer)
    patch.setattr(kind, "encode_chat", failing(kind.encode_chat, mentions))


def break_template(here: Running, patch: pytest.MonkeyPatch) -> None:
    kind = type(here.llm.tokenizer.require_chat_template())
    patch.setattr(kind, "render", failing(kind.render, mentions))


def break_scheduler(_here: Running, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scheduler, "_adopt", failing(Scheduler._adopt, is_marked))


def break_forward(here: Running, patch: pytest.MonkeyPatch) -> None:
    def hook(batch: Batch, _logits: Float32) -> None:
        if MERGED in batch.token_ids:
            raise Fault("here it breaks")

    patch.setattr(here.llm._engine.runner, "hook", hook)


def break_sampler(here: Running, patch: pytest.MonkeyPatch) -> None:
    def hook(batch: Batch, logits: Float32) -> None:
        logits[marked(batch, MERGED)] = np.nan

    patch.setattr(here.llm._engine.runner, "hook", hook)


def break_detokenizer(here: Running, patch: pytest.MonkeyPatch) -> None:
    engine = here.llm._engine
    submit = engine.submit

    def deaf(_sampled: Sampled) -> bool:
        raise Fault("here it breaks")

    def submit_marked(prompt_ids: Any, *rest: Any, **named: Any) -> Request:
        return submit(prompt_ids, *rest, **{**named, **({"listener": deaf} if MERGED in prompt_ids else {})})

    patch.setattr(engine, "submit", submit_marked)


def break_writer(_here: Running, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ChatWriter, "_chunks", failing(ChatWriter._chunks, writes_marked))
    patch.setattr(ChatWriter, "document", failing(ChatWriter.document, writes_marked))


STAGES: dict[str, Callable[[Running, pytest.MonkeyPatch], None]] = {
    "tokenizer": break_tokenizer,
    "template": break_template,
    "scheduler": break_scheduler,
    "forward": break_forward,
    "sampler": break_sampler,
    "detokenizer": break_detokenizer,
    "stream writer": break_writer,
}


def question(text: str, *, stream: bool) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 24,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
        "logit_bias": {str(MERGED): -100},
    }


async def answers(here: Running, questions: list[dict[str, Any]]) -> list[tuple[int, Any]]:
    """Asks all at once: the statuses, and what is the same in every run."""
    client = httpx.AsyncClient(base_url=here.url, timeout=PATIENCE, trust_env=False)
    async with client:
        replies = await asyncio.gather(
            *(client.post("/v1/chat/completions", json=each) for each in questions)
        )
    return [(reply.status_code, content(reply)) for reply in replies]


def content(reply: httpx.Response) -> Any:
    """The text of an answer, or an error's document, in whichever form it came."""
    if reply.headers["content-type"].startswith("application/json"):
        document = reply.json()
        return document if "error" in document else document["choices"][0]["message"]["content"]
    said = ""
    for frame in reply.text.strip().split("\n\n"):
        data = frame.removeprefix("data: ")
        if data == "[DONE]":
            return said
        document = json.loads(data)
        if "error" in document:
            return document
        said += document["choices"][0]["delta"].get("content") or ""
    raise AssertionError(f"a stream without an end: {reply.text}")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("toy")) as server:
        yield server


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_only_the_one_that_breaks_fails(
    here: Running, monkeypatch: pytest.MonkeyPatch, stage: str, stream: bool
) -> None:
    neighbours = [question(text, stream=bool(index % 2)) for index, text in enumerate(NEIGHBOURS)]
    alone = [asyncio.run(answers(here, [each]))[0] for each in neighbours]
    assert {status for status, _ in alone} == {200}
    broken = question(f"{stage} {stream} {MARK}", stream=stream)  # the mark is on a page of its own
    with monkeypatch.context() as patch:
        STAGES[stage](here, patch)
        *together, (status, error) = asyncio.run(answers(here, [*neighbours, broken]))
        here.settled()
    assert together == alone
    assert set(error) == {"error"}, error
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert "here it breaks" not in str(error)  # what nobody expected is nobody else's business
    begun = stream and stage not in ("tokenizer", "template")
    assert status == (200 if begun else 500)
    assert here.service.trouble is None
    assert asyncio.run(answers(here, [broken]))[0][0] == 200


def test_steps_that_fail_again_and_again_are_an_illness(
    here: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hook(_batch: Batch, _logits: Float32) -> None:
        raise Fault("the runner is broken")

    asked = [question("anything", stream=False)]
    with monkeypatch.context() as patch, here.client() as client:
        patch.setattr(here.llm._engine.runner, "hook", hook)
        for _ in range(4):
            assert asyncio.run(answers(here, asked))[0][0] == 500
        assert client.get("/health").status_code == 503
        patch.undo()
        assert asyncio.run(answers(here, asked))[0][0] == 200  # it was the runner, not the server
        assert client.get("/health").status_code == 200
