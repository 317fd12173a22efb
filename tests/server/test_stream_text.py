"""A streamed answer is the same text as a whole one, in every script, wherever it is cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx
import pytest

from boli.engine.batch import Batch, Float32
from engine.toy_llm import SPECIAL, byte_id
from server.running import PATIENCE, Running, toy_server
from text.samples import TEXTS, mixed_texts

COUNT = 500
PROMPTS = [*(text for text in TEXTS if text), *mixed_texts(COUNT - len(TEXTS) + 1, seed=4)]
_ALPHABET: dict[int, str] = {}


def token_of(byte: int) -> int:
    """The toy vocabulary's token of a byte."""
    if not _ALPHABET:
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        _ALPHABET.update({byte: chr(byte) for byte in shown})
        hidden = [byte for byte in range(256) if byte not in _ALPHABET]
        _ALPHABET.update({byte: chr(256 + index) for index, byte in enumerate(hidden)})
    return byte_id(_ALPHABET[byte])


SCRIPT = [token_of(byte) for byte in "".join(TEXTS[2:]).encode() + b"\xff\xe4\xbd" + "你好🙂".encode()]


def recite(batch: Batch, logits: Float32) -> None:
    """The model says all texts one after the other, from the place where the prompt ends."""
    for index, row in enumerate(batch.logits_rows):
        logits[index] = -5.0
        logits[index, SCRIPT[int(batch.positions[row]) % len(SCRIPT)]] = 5.0


@pytest.fixture(scope="module", params=[None, recite], ids=["random bytes", "texts"])
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("toy"), hook=request.param) as server:
        yield server


def frames(body: str) -> list[dict[str, Any]]:
    """The documents of a stream, whose grammar is checked on the way."""
    assert body.endswith("\n\n")
    *before, last = body[:-2].split("\n\n")
    assert last == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in before if not frame.startswith(":")]


async def both_ways(client: httpx.AsyncClient, here: Running, index: int, chat: bool) -> None:
    asked: dict[str, Any] = {
        "max_tokens": 1 + index % 23, "temperature": 0, "ignore_eos": True, "logprobs": True if chat else 0,
    }  # fmt: skip
    if index % 5 == 0:
        asked["stop"] = ["\ufffdx", "好", "is"]
    text = PROMPTS[index][:200]
    asked |= {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    path = "/v1/chat/completions" if chat else "/v1/completions"
    whole = (await client.post(path, json=asked)).raise_for_status().json()["choices"][0]
    streamed = await client.post(path, json={**asked, "stream": True})
    pieces = [frame["choices"][0] for frame in frames(streamed.raise_for_status().text)]
    if chat:
        said = "".join(piece["delta"].get("content") or "" for piece in pieces)
        assert said == whole["message"]["content"]
        tokens = [entry for piece in pieces for entry in (piece["logprobs"] or {}).get("content") or []]
        assert tokens == whole["logprobs"]["content"]
    else:
        said = "".join(piece["text"] for piece in pieces)
        assert said == whole["text"]
        tokens = [entry for piece in pieces for entry in piece["logprobs"]["tokens"]]
        assert tokens == whole["logprobs"]["tokens"]
    assert [p["finish_reason"] for p in pieces if p["finish_reason"]] == [whole["finish_reason"]]
    if chat and "stop" not in asked:
        ordinary = [each for each in whole["logprobs"]["content"] if each["token"] not in SPECIAL]
        raw = b"".join(bytes(entry["bytes"]) for entry in ordinary)
        assert said == raw.decode("utf-8", errors="replace")


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "completions"])
def test_streams_say_what_whole_answers_say(here: Running, chat: bool) -> None:
    async def all_of_them() -> None:
        async with httpx.AsyncClient(base_url=here.url, timeout=PATIENCE, trust_env=False) as client:
            numbers = iter(range(chat, COUNT, 2))
            while batch := list(islice(numbers, 16)):
                await asyncio.gather(*(both_ways(client, here, index, chat) for index in batch))

    asyncio.run(all_of_them())
    here.settled()
