"""The clients that people have, none of which is a special case: OpenAI's, Anthropic's, Ollama's."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import anthropic
import numpy as np
import ollama
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from engine.toy_llm import IM_END
from server.running import PATIENCE, Running
from server.tiny_server import tiny_folder, tiny_server

KEY = "sk-test-äöü-你好"  # keys need not be ASCII
PLAIN = "sk-test-key"
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": [{"type": "text", "text": "hello"}]},
]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tiny_folder(tmp_path_factory.mktemp("tiny"))
    with tiny_server(folder, api_key=(PLAIN, KEY), served_model_names=("tiny",)) as server:
        yield server


@pytest.fixture
def client(here: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{here.url}/v1", api_key=PLAIN, timeout=PATIENCE, max_retries=0) as made:
        yield made


def test_chat(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_completion_tokens=10, seed=1, temperature=0.8, user="me"
    )
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 10 or whole.choices[0].finish_reason == "stop"
    with client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_completion_tokens=10, seed=1, temperature=0.8, stream=True,
        stream_options={"include_usage": True},
    ) as stream:  # fmt: skip
        chunks = list(stream)
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    details = chunks[-1].usage.prompt_tokens_details
    assert details is not None
    assert details.cached_tokens is not None


def test_chat_by_the_streaming_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="tiny", messages=MESSAGES, max_tokens=200, logprobs=True, top_logprobs=2, n=2, seed=4,
        logit_bias={str(IM_END): 4},  # the helper wants answers that come to an end
    ) as stream:  # fmt: skip
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta"} <= kinds
    assert [choice.index for choice in final.choices] == [0, 1]
    logprobs = final.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content


def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(
        model="tiny", prompt=["one", "two"], max_tokens=6, seed=2, n=2, logprobs=1
    )
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    with client.completions.create(
        model="tiny", prompt=["one", "two"], max_tokens=6, seed=2, n=2, stream=True
    ) as stream:
        texts = [""] * 4
        for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]


def test_embeddings(client: openai.OpenAI) -> None:
    asked = ["hello", "goodbye"]
    floats = client.embeddings.create(model="tiny", input=asked, encoding_format="float")
    usual = client.embeddings.create(model="tiny", input=asked)  # the client asks for base64 by itself
    for plain, packed in zip(floats.data, usual.data, strict=True):
        assert np.allclose(plain.embedding, packed.embedding, atol=1e-6)
        assert np.linalg.norm(plain.embedding) == pytest.approx(1, abs=1e-5)
    raw = client.embeddings.with_raw_response.create(
        model="tiny", input="hello", encoding_format="base64", dimensions=8
    )
    packed_text = raw.http_response.json()["data"][0]["embedding"]
    assert len(np.frombuffer(base64.b64decode(packed_text), "<f4")) == 8
    ids = client.embeddings.create(model="tiny", input=[[1, 2, 3], [4]])
    assert len(ids.data) == 2


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("huge")


def test_responses(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="tiny", input="hello", max_output_tokens=12, temperature=0)
    assert whole.output_text
    assert whole.usage is not None
    with client.responses.create(
        model="tiny", input="hello", max_output_tokens=12, temperature=0, stream=True
    ) as stream:
        events = list(stream)
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert said == whole.output_text == last.response.output_text


def test_many_at_once_by_the_asynchronous_client(here: Running) -> None:
    async def all_of_them() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{here.url}/v1", api_key=PLAIN, max_retries=0) as client:
            replies = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model="tiny",
                        messages=[{"role": "user", "content": str(n)}],
                        temperature=0,
                        max_tokens=8,
                    )
                    for n in range(24)
                )
            )
        return [reply.choices[0].message.content for reply in replies]

    assert asyncio.run(all_of_them()) == asyncio.run(all_of_them())


ERRORS: list[tuple[dict[str, Any], type[openai.APIStatusError]]] = [
    ({"messages": []}, openai.BadRequestError),
    ({"temperature": 9}, openai.BadRequestError),
    ({"model": "huge"}, openai.NotFoundError),
    ({"extra_body": {"temprature": 1}}, openai.BadRequestError),
    ({"messages": [{"role": "user", "content": "x" * 2000}]}, openai.BadRequestError),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
     openai.BadRequestError),
]  # fmt: skip


@pytest.mark.parametrize(("change", "kind"), ERRORS, ids=str)
def test_errors_are_the_clients_own(
    client: openai.OpenAI, change: dict[str, Any], kind: type[openai.APIStatusError]
) -> None:
    for stream in (False, True):
        with pytest.raises(kind) as caught:
            client.chat.completions.create(
                **{"model": "tiny", "messages": MESSAGES, "stream": stream, **change}
            )
        assert caught.value.body is not None
        assert caught.value.type


def test_keys(here: Running) -> None:
    stranger = openai.OpenAI(base_url=f"{here.url}/v1", api_key="sk-wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_a_receipt_and_extensions_in_the_extra_body(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=8,
        extra_body={"boli": {"receipt": True}, "top_k": 5, "min_p": 0.1, "ignore_eos": True},
    )  # fmt: skip
    assert reply.model_extra is not None
    assert "boli" in reply.model_extra


def test_anthropics_client(here: Running) -> None:
    with anthropic.Anthropic(base_url=here.url, api_key=PLAIN, max_retries=0, timeout=PATIENCE) as client:
        asked: dict[str, Any] = {
            "model": "tiny", "max_tokens": 10, "system": "be brief", "extra_body": {"temperature": 0},
            "messages": [{"role": "user", "content": "hello"}],
        }  # fmt: skip
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            said = "".join(stream.text_stream)
            final = stream.get_final_message()
        assert said == whole.content[0].text
        assert final.usage.output_tokens == whole.usage.output_tokens
        counted = client.messages.count_tokens(
            model="tiny", system="be brief", messages=[{"role": "user", "content": "hello"}]
        )
        usage = whole.usage
        assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
        with pytest.raises(anthropic.BadRequestError):
            client.messages.create(model="tiny", max_tokens=5, messages=[])
    stranger = anthropic.Anthropic(base_url=here.url, api_key="wrong", max_retries=0)
    with stranger, pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(**asked)
    with anthropic.Anthropic(base_url=here.url, auth_token=PLAIN, max_retries=0) as bearer:
        assert bearer.messages.create(**asked).content == whole.content


def test_ollamas_client(here: Running) -> None:
    client = ollama.Client(host=here.url, headers={"Authorization": f"Bearer {PLAIN}"}, timeout=PATIENCE)
    options = {"temperature": 0, "num_predict": 10}
    try:
        assert [model.model for model in client.list().models] == ["tiny"]
        assert client.show("tiny").modelinfo
        messages = [{"role": "user", "content": "hello"}]
        whole = client.chat("tiny", messages=messages, options=options)
        parts = list(client.chat("tiny", messages=messages, options=options, stream=True))
        assert "".join(part.message.content or "" for part in parts) == whole.message.content
        assert parts[-1].done
        assert parts[-1].eval_count == whole.eval_count
        text = client.generate("tiny", "hello", options=options)
        pieces = client.generate("tiny", "hello", options=options, stream=True)
        assert "".join(piece.response or "" for piece in pieces) == text.response
        assert len(client.embed("tiny", ["a", "b"]).embeddings) == 2
        with pytest.raises(ollama.ResponseError):
            client.chat("huge", messages=messages)
    finally:
        client._client.close()
