"""What is sampled and how likely it was: against transformers, and against what was asked for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from boli.server.token_text import token_name
from server.running import Running
from server.tiny_server import tiny_folder, tiny_server
from tiny_models import VOCAB, prompt, transformers_greedy, transformers_logits

CLOSE = 2e-3  # of a log-probability; float32 in another order of sums


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def here(folder: Path) -> Iterator[Running]:
    with tiny_server(folder) as server:
        yield server


@pytest.fixture
def client(here: Running) -> Iterator[httpx.Client]:
    with here.client() as made:
        yield made


def complete(client: httpx.Client, **asked: Any) -> list[dict[str, Any]]:
    asked = {"ignore_eos": True, **asked}
    reply = client.post("/v1/completions", json=asked)
    assert reply.status_code == 200, reply.text
    choices: list[dict[str, Any]] = reply.json()["choices"]
    return choices


def log_softmax(folder: Path, ids: list[int]) -> Any:
    return torch.log_softmax(torch.from_numpy(transformers_logits(folder, ids)).double(), -1).numpy()


@pytest.mark.parametrize("seed", range(4))
def test_log_probabilities_are_those_of_transformers(
    client: httpx.Client, here: Running, folder: Path, seed: int
) -> None:
    ids = prompt(20 + 11 * seed, seed) if seed else prompt(5)
    count = 24
    greedy = transformers_greedy(folder, ids, count)
    (choice,) = complete(client, prompt=ids, max_tokens=count, temperature=0, logprobs=5)
    expected = log_softmax(folder, ids + greedy)
    tokenizer = here.llm.tokenizer
    assert len(choice["logprobs"]["tokens"]) == count
    for step, token in enumerate(greedy):
        row = expected[len(ids) + step - 1]
        assert choice["logprobs"]["token_logprobs"][step] == pytest.approx(row[token], abs=CLOSE)
        likeliest = np.sort(row)[::-1][:5]
        told = sorted(choice["logprobs"]["top_logprobs"][step].values(), reverse=True)
        assert told[0] == pytest.approx(likeliest[0], abs=CLOSE)
        # Of tokens that are called the same there is only one.
        assert all(np.abs(likeliest - value).min() < CLOSE for value in told)
    assert choice["text"] == tokenizer.decode(ids + greedy, skip_special_tokens=True).removeprefix(
        tokenizer.decode(ids, skip_special_tokens=True)
    )


def test_an_echoed_prompt_has_the_log_probabilities_of_its_own_tokens(
    client: httpx.Client, folder: Path
) -> None:
    """As lm-evaluation-harness asks: several prompts of token ids, echoed, with one token more."""
    prompts = [prompt(length, seed) for seed, length in enumerate((3, 40, 17))]
    choices = complete(client, prompt=prompts, max_tokens=1, temperature=0, logprobs=1, echo=True)
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    for ids, choice in zip(prompts, choices, strict=True):
        expected = log_softmax(folder, ids)
        told = choice["logprobs"]
        assert len(told["tokens"]) == len(told["token_logprobs"]) == len(told["text_offset"]) == len(ids) + 1
        assert told["token_logprobs"][0] is None
        for place in range(1, len(ids)):
            value = expected[place - 1][ids[place]]
            assert told["token_logprobs"][place] == pytest.approx(value, abs=CLOSE)
            greedy = bool(expected[place - 1].argmax() == ids[place])
            assert (told["token_logprobs"][place] == max(told["top_logprobs"][place].values())) == greedy


def test_chat_tells_the_same_as_completions(client: httpx.Client, here: Running) -> None:
    messages = [{"role": "user", "content": "hello"}]
    asked = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
    chat = client.post(
        "/v1/chat/completions", json={"messages": messages, "logprobs": True, "top_logprobs": 3, **asked}
    ).json()["choices"][0]
    (text,) = complete(client, prompt=here.llm.render(messages), logprobs=3, **asked)
    assert chat["message"]["content"] == text["text"]
    content = chat["logprobs"]["content"]
    assert [each["logprob"] for each in content] == text["logprobs"]["token_logprobs"]
    for each in content:
        assert len(each["top_logprobs"]) == 3
        assert each["top_logprobs"][0]["logprob"] == each["logprob"]


def test_the_same_seed_says_the_same_whatever_runs_beside(client: httpx.Client) -> None:
    asked = {"prompt": "seeded", "max_tokens": 20, "temperature": 1.0, "logprobs": 0}
    first = complete(client, **asked, seed=7)
    assert complete(client, **asked, seed=7) == first
    assert complete(client, **asked, seed=8)[0]["text"] != first[0]["text"]
    several = complete(client, **asked, seed=7, n=4)
    assert several[0]["text"] == first[0]["text"]
    assert len({choice["text"] for choice in several}) == 4
    assert complete(client, **asked, seed=7, n=4) == several
    assert complete(client, **asked)[0]["text"] != complete(client, **asked)[0]["text"]  # no seed


def test_a_bias_bans_and_forces(client: httpx.Client) -> None:
    asked: dict[str, Any] = {"prompt": "bias", "max_tokens": 16, "temperature": 0, "logprobs": 0}
    free = complete(client, **asked)[0]["logprobs"]["tokens"]
    forced = complete(client, **asked, logit_bias={"65": 100})[0]["logprobs"]["tokens"]
    assert len(set(forced)) == 1
    token = forced[0]
    banned = complete(
        client, **{**asked, "temperature": 1.0, "max_tokens": 200}, logit_bias={"65": -100}, seed=1
    )
    assert token not in banned[0]["logprobs"]["tokens"]
    assert complete(client, **asked, logit_bias={})[0]["logprobs"]["tokens"] == free
    for bad in ({"x": 1}, {"65": 101}, {"-1": 1}, {str(VOCAB): 1}, {"1.5": 1}, {"65": "much"}):
        reply = client.post("/v1/completions", json={**asked, "logit_bias": bad})
        assert reply.status_code == 400, (bad, reply.text)


def test_penalties_make_repetition_rarer(client: httpx.Client) -> None:
    # A bias towards two tokens makes the model repeat itself; a penalty must act against that.
    asked: dict[str, Any] = {
        "prompt": "p", "max_tokens": 60, "temperature": 1.0, "seed": 5, "logprobs": 0,
        "logit_bias": {"65": 12, "66": 12},
    }  # fmt: skip

    def most_frequent(**more: Any) -> int:
        tokens = complete(client, **asked, **more)[0]["logprobs"]["tokens"]
        return Counter(tokens).most_common(1)[0][1]

    plain = most_frequent()
    assert most_frequent(frequency_penalty=2.0) < plain
    assert most_frequent(presence_penalty=2.0) <= plain
    assert most_frequent(frequency_penalty=-2.0) > plain
    greedy = complete(client, prompt="p", max_tokens=40, temperature=0, logprobs=0)
    assert (
        complete(client, prompt="p", max_tokens=40, temperature=0, logprobs=0, presence_penalty=0.0) == greedy
    )


def test_samples_follow_the_distribution(client: httpx.Client, folder: Path, here: Running) -> None:
    """Chi-square of the first token over many seeds, against transformers' probabilities."""
    ids = prompt(9, 3)
    probabilities = np.exp(log_softmax(folder, ids)[-1])
    texts: Counter[str] = Counter()
    draws = 16 * 100
    for seed in range(0, draws, 16):
        choices = complete(
            client, prompt=ids, max_tokens=1, temperature=1.0, seed=seed * 1000, n=16, logprobs=0
        )
        texts.update(choice["logprobs"]["tokens"][0] for choice in choices)
    names: dict[str, float] = {}
    for token, probability in enumerate(probabilities):
        name = token_name(here.llm.tokenizer, token)
        names[name] = names.get(name, 0.0) + float(probability)
    usual = {name: p for name, p in names.items() if p * draws >= 5}
    rest = 1.0 - sum(usual.values())
    seen = {name: texts[name] for name in usual}
    statistic = sum((seen[name] - p * draws) ** 2 / (p * draws) for name, p in usual.items())
    left = draws - sum(seen.values())
    if rest * draws >= 5:
        statistic += (left - rest * draws) ** 2 / (rest * draws)
    freedom = len(usual)
    assert statistic < freedom + 5 * math.sqrt(2 * freedom), (statistic, freedom)
