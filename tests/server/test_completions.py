"""Completions on the wire: prompts, echo with log-probabilities, the best of several."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from boli.engine.sampling import with_logprobs
from engine.toy_llm import VOCAB
from engine.toy_runner import expected_logits
from server.running import Running, toy_server


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with toy_server(tmp_path_factory.mktemp("completions"), max_rows=24) as server:
        yield server


@pytest.fixture
def client(here: Running) -> Iterator[httpx.Client]:
    with here.client() as each:
        yield each


def ask(client: httpx.Client, **wish: Any) -> Any:
    reply = client.post("/v1/completions", json={"temperature": 0, "max_tokens": 4} | wish)
    assert reply.status_code == 200, reply.text
    return reply.json()


def streamed(client: httpx.Client, **wish: Any) -> list[Any]:
    wish = {"temperature": 0, "max_tokens": 4, "stream": True} | wish
    *data, done, _ = client.post("/v1/completions", json=wish).text.split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(each.removeprefix("data: ")) for each in data]


def test_prompts_are_answered_in_their_order(client: httpx.Client, here: Running) -> None:
    texts = ["one", "two", "three"]
    ids = [here.llm.tokenizer.encode(text) for text in texts]
    reply = ask(client, prompt=texts, n=2, seed=3, temperature=1)
    assert [each["index"] for each in reply["choices"]] == list(range(6))
    assert [each["text"] for each in reply["choices"]] == [
        each["text"] for each in ask(client, prompt=ids, n=2, seed=3, temperature=1)["choices"]
    ]
    alone = [ask(client, prompt=text, n=2, seed=3, temperature=1)["choices"] for text in texts]
    assert [each["text"] for each in reply["choices"]] == [one["text"] for pair in alone for one in pair]
    assert reply["usage"]["prompt_tokens"] == sum(map(len, ids))
    assert reply["usage"]["completion_tokens"] == 24
    assert ask(client, prompt=ids[0])["choices"] == ask(client, prompt="one")["choices"]


def test_sixteen_tokens_are_the_default(client: httpx.Client) -> None:
    reply = client.post("/v1/completions", json={"prompt": "x", "ignore_eos": True}).json()
    assert reply["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("most", [0, 1, 4])
def test_an_echoed_prompt_has_exact_log_probabilities(client: httpx.Client, here: Running, most: int) -> None:
    """What lm-eval asks for; the prompt is longer than a step, so that it is scored in pieces."""
    ids = here.llm.tokenizer.encode("the thing is, it said " * 3)
    choice = ask(client, prompt=[ids], echo=True, logprobs=2, max_tokens=most)["choices"][0]
    told = choice["logprobs"]
    assert len(told["tokens"]) == len(ids) + most
    assert told["token_logprobs"][0] is None
    assert told["top_logprobs"][0] is None
    for position in range(1, len(ids)):
        expected = with_logprobs(expected_logits(ids[:position], VOCAB), ids[position], 2)
        assert told["token_logprobs"][position] == expected.logprob
        assert max(told["top_logprobs"][position].values()) == expected.top[0][1]
        assert told["tokens"][position] in told["top_logprobs"][position]
    assert told["text_offset"][:3] == [0, *_lengths(told["tokens"][:2])]
    assert choice["text"].startswith(here.llm.tokenizer.decode(ids))
    assert (choice["text"] == here.llm.tokenizer.decode(ids)) == (most == 0)


def _lengths(tokens: list[str]) -> list[int]:
    return [len("".join(tokens[: count + 1])) for count in range(len(tokens))]


def test_no_token_costs_nothing(client: httpx.Client) -> None:
    reply = ask(client, prompt="hello", echo=True, max_tokens=0)
    assert reply["choices"][0]["text"] == "hello"
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 0


def test_many_scored_prompts_share_steps_with_others(client: httpx.Client, here: Running) -> None:
    texts = [f"prompt number {index} of some length" for index in range(6)]
    wish: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 3}
    alone = [ask(client, prompt=text, **wish)["choices"][0]["logprobs"] for text in texts]
    together = ask(client, prompt=texts, **wish)["choices"]
    assert [each["logprobs"] for each in together] == alone
    here.settled()


def test_the_best_of_several_comes_first(client: httpx.Client) -> None:
    wish: dict[str, Any] = {"prompt": "hello", "temperature": 1.5, "seed": 11, "max_tokens": 6, "logprobs": 0}
    every = ask(client, **wish, n=8)["choices"]

    def likelihood(choice: Any) -> float:
        values = choice["logprobs"]["token_logprobs"]
        return float(sum(values) / len(values))

    best = ask(client, **wish, n=2, best_of=8)
    expected = sorted(every, key=likelihood, reverse=True)[:2]
    assert [each["text"] for each in best["choices"]] == [each["text"] for each in expected]
    assert best["usage"]["completion_tokens"] >= sum(len(each["logprobs"]["tokens"]) for each in every)
    assert ask(client, prompt="hello", best_of=3)["choices"][0]["logprobs"] is None


def test_streams_say_the_same(client: httpx.Client) -> None:
    wish: dict[str, Any] = {"prompt": ["one", "two"], "echo": True, "logprobs": 1, "n": 2, "seed": 2,
                            "temperature": 1, "max_tokens": 5}  # fmt: skip
    chunks = streamed(client, **wish, stream_options={"include_usage": True})
    reply = ask(client, **wish)
    assert chunks[-1]["usage"] == reply["usage"] | {
        "prompt_tokens_details": chunks[-1]["usage"]["prompt_tokens_details"]
    }
    for choice in reply["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(each["text"] for each in mine) == choice["text"]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert [one for each in mine for one in each["logprobs"][name]] == choice["logprobs"][name]
        assert [each["finish_reason"] for each in mine if each["finish_reason"]] == [choice["finish_reason"]]


@pytest.mark.parametrize("prompt", ["", [260], [[1], [999]], ["fine", ""]])
def test_prompts_that_cannot_be_run_are_refused(client: httpx.Client, prompt: Any, here: Running) -> None:
    reply = client.post("/v1/completions", json={"prompt": prompt, "stream": True})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "prompt")
    here.settled()
