"""Ollama's routes through the real client of Ollama, against a real server of a toy model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import pytest

from boli import __version__
from engine.test_pooling import expected
from engine.toy_llm import CHATML
from server.running import PATIENCE, Running, toy_server
from server.speaker import CALLED, CALLING, HERMES, NOTHING, WEATHER, Speaker
from text.samples import TEXTS, mixed_texts

SAID = "It is 18 °C in 巴黎 🙂.\n"
PROMPTS = [*(text for text in TEXTS if text), *mixed_texts(30, seed=11)]
QUESTION = {"role": "user", "content": "How warm?"}


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture(scope="module")
def here(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("toy"), hook=speaker) as server:
        yield server


@pytest.fixture(scope="module")
def babble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("babble")) as server:
        yield server


@pytest.fixture
def client(here: Running) -> Iterator[ollama.Client]:
    with client_of(here) as client:
        yield client


def client_of(server: Running) -> ollama.Client:
    return ollama.Client(host=server.url, timeout=PATIENCE, trust_env=False)


def say(here: Running, speaker: Speaker, text: str, *, raw: str | None = None) -> int:
    ids = here.llm.render([QUESTION]) if raw is None else here.llm.tokenizer.encode(raw)
    speaker.say(text, len(ids))
    return len(ids)


def test_an_answer(here: Running, speaker: Speaker, client: ollama.Client) -> None:
    tokens = say(here, speaker, SAID)
    for name in ("toy", "toy:latest"):
        reply = client.chat(model=name, messages=[QUESTION], options={"temperature": 0})
        assert reply.message.content == SAID
        assert (reply.model, reply.done, reply.done_reason) == (name, True, "stop")
        assert (reply.prompt_eval_count, reply.eval_count) == (tokens, len(SAID.encode()) + 1)
        assert reply.total_duration and reply.eval_duration
        assert reply.total_duration >= reply.eval_duration > 0


def test_a_stream(here: Running, speaker: Speaker, client: ollama.Client) -> None:
    say(here, speaker, SAID)
    pieces = list(client.chat(model="toy", messages=[QUESTION], options={"temperature": 0}, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == SAID
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].eval_count == len(SAID.encode()) + 1


def test_a_stream_is_lines_and_the_default(here: Running) -> None:
    with here.client() as client:
        reply = client.post("/api/chat", json={"model": "toy", "messages": [QUESTION]})
    assert reply.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert lines[-1]["done"] is True


def test_a_prompt(here: Running, speaker: Speaker, client: ollama.Client) -> None:
    say(here, speaker, SAID)
    assert client.generate(model="toy", prompt="How warm?", options={"temperature": 0}).response == SAID
    tokens = say(here, speaker, SAID, raw="How warm?")
    reply = client.generate(model="toy", prompt="How warm?", raw=True, options={"temperature": 0})
    assert (reply.response, reply.prompt_eval_count) == (SAID, tokens)
    pieces = list(
        client.generate(model="toy", prompt="How warm?", raw=True, options={"temperature": 0}, stream=True)
    )
    assert "".join(piece.response or "" for piece in pieces) == SAID


def test_options_reach_the_sampler(here: Running, speaker: Speaker, client: ollama.Client) -> None:
    say(here, speaker, SAID)
    reply = client.chat(model="toy", messages=[QUESTION], options={"temperature": 0, "num_predict": 5})
    assert (reply.message.content, reply.done_reason) == (SAID[:5], "length")
    reply = client.chat(model="toy", messages=[QUESTION], options={"temperature": 0, "stop": ["°"]})
    assert (reply.message.content, reply.done_reason) == ("It is 18 ", "stop")


def test_a_seed_repeats_a_draw(babble: Running) -> None:
    options = {"temperature": 1.5, "num_predict": 20, "top_k": 0, "top_p": 1.0}
    with client_of(babble) as client:
        one, again, other = (
            client.chat(model="toy", messages=[QUESTION], options={**options, "seed": seed}).message.content
            for seed in (1, 1, 2)
        )
    assert one == again != other


def test_log_probabilities(here: Running, speaker: Speaker, client: ollama.Client) -> None:
    say(here, speaker, "yes")
    reply = client.chat(
        model="toy", messages=[QUESTION], options={"temperature": 0}, logprobs=True, top_logprobs=2
    )
    assert reply.logprobs is not None
    assert [(entry.token, len(entry.top_logprobs or ())) for entry in reply.logprobs][:3] == [
        ("y", 2), ("e", 2), ("s", 2)
    ]  # fmt: skip


def test_a_stream_says_what_the_whole_answer_says(babble: Running) -> None:
    with client_of(babble) as client:
        for index, text in enumerate(PROMPTS):
            options = {"temperature": 0, "num_predict": 1 + index % 19}
            messages = [{"role": "user", "content": text[:300]}]
            whole = client.chat(model="toy", messages=messages, options=options)
            pieces = client.chat(model="toy", messages=messages, options=options, stream=True)
            assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
            raw = client.generate(model="toy", prompt=text[:300], raw=True, options=options)
            parts = client.generate(model="toy", prompt=text[:300], raw=True, options=options, stream=True)
            assert "".join(part.response or "" for part in parts) == raw.response
    babble.settled()


def test_asking_for_nothing_loads_the_model(client: ollama.Client) -> None:
    chat = client.chat(model="toy", messages=[])
    assert (chat.done, chat.done_reason, chat.message.content) == (True, "load", "")
    text = client.generate(model="toy", prompt="", keep_alive="5m")
    assert (text.done, text.done_reason, text.response) == (True, "load", "")


def test_vectors(here: Running, client: ollama.Client) -> None:
    reply = client.embed(model="toy", input=["a", TEXTS[2]])
    for vector, text in zip(reply.embeddings, ("a", TEXTS[2]), strict=True):
        pooled = expected(here.llm.tokenizer.encode(text)).astype(float)
        np.testing.assert_allclose(vector, pooled / np.linalg.norm(pooled), rtol=1e-5, atol=1e-6)
    assert len(client.embed(model="toy", input="a", dimensions=3).embeddings[0]) == 3
    cut = client.embed(model="toy", input="x" * 600)
    assert cut.prompt_eval_count == here.llm.context - 1
    with pytest.raises(ollama.ResponseError, match="context"):
        client.embed(model="toy", input="x" * 600, truncate=False)


def test_the_model_is_described(here: Running, client: ollama.Client) -> None:
    (listed,) = client.list().models
    assert (listed.model, listed.details and listed.details.family) == ("toy", "toy")
    (loaded,) = client.ps().models
    assert (loaded.name, loaded.context_length, loaded.size_vram) == ("toy", here.llm.context, 0)
    shown = client.show("toy")
    assert shown.template == CHATML
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "toy"
    assert "completion" in (shown.capabilities or ())
    with here.client() as plain:
        assert plain.get("/api/version").json() == {"version": __version__}


def test_a_model_without_a_template_continues_prompts(tmp_path: Path) -> None:
    with toy_server(tmp_path, chat_template=None) as server, client_of(server) as client:
        options = {"temperature": 0, "num_predict": 5}
        raw = client.generate(model="toy", prompt="a", raw=True, options=options).response
        assert client.generate(model="toy", prompt="a", options=options).response == raw
        with pytest.raises(ollama.ResponseError, match="template"):
            client.generate(model="toy", prompt="a", system="b")
        with pytest.raises(ollama.ResponseError, match="template"):
            client.chat(model="toy", messages=[QUESTION])
        assert client.show("toy").template == ""


def test_errors_are_ollamas(here: Running, client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as raised:
        client.chat(model="other", messages=[QUESTION])
    assert raised.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="text only") as raised:
        client.chat(model="toy", messages=[{**QUESTION, "images": ["aGk="]}])
    assert raised.value.status_code == 400
    for stream in (False, True):
        with here.client() as plain:
            reply: httpx.Response = plain.post(
                "/api/generate", json={"model": "toy", "prompt": "x" * 600, "stream": stream}
            )
        assert reply.status_code == 400
        assert list(reply.json()) == ["error"]
    here.settled()


@pytest.fixture(scope="module")
def caller(speaker: Speaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("caller")
    with toy_server(folder, hook=speaker, chat_template=HERMES, context=2048, num_pages=256) as server:
        yield server


def test_functions_are_called_and_their_results_taken(caller: Running, speaker: Speaker) -> None:
    tools: Any = [
        {"type": "function", "function": {"name": name, "parameters": parameters}}
        for name, parameters in (("forecast", WEATHER), ("time", NOTHING))
    ]
    asked: dict[str, Any] = {
        "model": "toy", "tools": tools, "options": {"temperature": 0, "num_predict": 300}
    }  # fmt: skip
    with client_of(caller) as client, caller.client() as plain:
        counted = plain.post("/tokenize", json={"messages": [QUESTION], "tools": tools}).json()["count"]
        speaker.say(CALLING, counted)
        # As it stands: the client would write the tools in a form of its own, and the prompt would differ.
        body = {**asked, "messages": [QUESTION]}
        lines = plain.post("/api/chat", json=body).raise_for_status().text.splitlines()
        whole = plain.post("/api/chat", json={**body, "stream": False}).raise_for_status().json()
        streamed = [call for line in lines for call in json.loads(line)["message"].get("tool_calls", ())]
        for calls in (streamed, whole["message"]["tool_calls"]):
            assert [(call["function"]["name"], call["function"]["arguments"]) for call in calls] == CALLED
        assert whole["message"]["content"] == "I ask."
        history = [QUESTION, whole["message"], *({"role": "tool", "content": "18", "tool_name": name}
                                                 for name, _ in CALLED)]  # fmt: skip
        assert client.chat(messages=history, **asked).done
        assert "tools" in (client.show("toy").capabilities or ())


def test_a_format_is_kept_to(here: Running, speaker: Speaker, client: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 60}
    say(here, speaker, 'I do not know."}')  # what is no object is put right, and this ends one
    held = client.chat(model="toy", messages=[QUESTION], format=WEATHER, options=options)
    assert "city" in json.loads(held.message.content or "")
    say(here, speaker, '{"a": [1]}')
    free = client.chat(model="toy", messages=[QUESTION], format="json", options=options)
    assert json.loads(free.message.content or "") == {"a": [1]}
