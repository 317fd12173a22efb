"""`/tokenize`, `/detokenize` and `/tokenizer_info`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from engine.toy_llm import CHATML, IM_END, IM_START, VOCAB
from server.running import Running, toy_server
from text.samples import TEXTS

QUESTION = [{"role": "user", "content": "the thing"}]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("toy")) as server:
        yield server


@pytest.fixture
def client(here: Running) -> Iterator[httpx.Client]:
    with here.client() as client:
        yield client


def tokenize(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    reply: dict[str, Any] = client.post("/tokenize", json=fields).raise_for_status().json()
    return reply


def test_there_and_back(here: Running, client: httpx.Client) -> None:
    for text in TEXTS:
        reply = tokenize(client, prompt=text)
        assert reply["tokens"] == here.llm.tokenizer.encode(text)
        assert (reply["count"], reply["max_model_len"]) == (len(reply["tokens"]), here.llm.context)
        back = client.post("/detokenize", json={"tokens": reply["tokens"]}).raise_for_status().json()
        assert back == {"prompt": text}


def test_a_conversation(here: Running, client: httpx.Client) -> None:
    ids = here.llm.render(QUESTION)
    assert tokenize(client, messages=QUESTION, model="toy")["tokens"] == ids
    bare = tokenize(client, messages=QUESTION, add_generation_prompt=False)["tokens"]
    assert ids[: len(bare)] == bare
    assert (bare[0], bare.count(IM_START), bare.count(IM_END)) == (IM_START, 1, 1)
    assert ids.count(IM_START) == 2


def test_pieces(client: httpx.Client) -> None:
    assert tokenize(client, prompt="the\n<|im_end|>", return_token_strs=True)["token_strs"] == [
        "th", "e", "Ċ", "<|im_end|>"
    ]  # fmt: skip
    assert tokenize(client, prompt="the")["token_strs"] is None


def test_special_tokens_around_a_text_can_be_left_out(tmp_path: Any) -> None:
    with toy_server(tmp_path) as server:
        server.llm.tokenizer._prefix_ids = (IM_START,)  # the toy's vocabulary adds none by itself
        with server.client() as client:
            assert tokenize(client, prompt="a")["count"] == 2
            assert tokenize(client, prompt="a", add_special_tokens=False)["count"] == 1


def test_what_the_tokenizer_is(here: Running, client: httpx.Client) -> None:
    info = client.get("/tokenizer_info").raise_for_status().json()
    assert info["chat_template"] == CHATML
    assert (info["vocab_size"], info["model_max_length"]) == (VOCAB, here.llm.context)
    assert info["eos_token_ids"] == [256, IM_END]
    assert info["eos_token"] in ("<|endoftext|>", "<|im_end|>")
    assert (info["bos_token"], info["add_bos_token"]) == (None, False)
    assert isinstance(info["tokenizer_class"], str)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": QUESTION}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("/tokenize", {"messages": QUESTION, "add_special_tokens": True}, "add_special_tokens"),
        ("/tokenize", {"messages": QUESTION, "chat_template": "{{ 1 }}"}, "chat_template"),
        ("/tokenize", {"prompt": "a", "tools": [{}]}, "tools"),
        ("/tokenize", {"prompt": "a", "promt": "b"}, "promt"),
        ("/detokenize", {"tokens": [VOCAB]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [True]}, "tokens[0]"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
    ],
)
def test_what_is_refused_is_named(
    client: httpx.Client, path: str, fields: dict[str, Any], param: str
) -> None:
    reply = client.post(path, json=fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_another_model_is_not_found(client: httpx.Client) -> None:
    assert client.post("/tokenize", json={"prompt": "a", "model": "other"}).status_code == 404
    assert client.post("/detokenize", json={"tokens": [1], "model": "other"}).status_code == 404
