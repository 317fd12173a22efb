"""The sampler's chain, done again step by step, chooses what the sampler chose."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from boli.engine.constraint import Bools, Source
from boli.engine.sampling import Sampler, SamplingParams
from boli.trace.chain import CUTS, ORDER, follow, log_normalizer
from boli.trace.sieve import LISTED, describe_chain

VOCAB = 700


def settings(source: random.Random) -> dict[str, Any]:
    """Random settings; each of them is off in about half of the cases."""
    chosen: dict[str, Any] = {
        "seed": source.randrange(1 << 53),
        "temperature": source.choice([0.0, 1e-3, 0.3, 0.8, 1.0, 1.7, 40.0]),
    }
    wishes: dict[str, Any] = {
        "repetition_penalty": source.uniform(0.5, 2.0),
        "presence_penalty": source.uniform(-2.0, 2.0),
        "frequency_penalty": source.uniform(-2.0, 2.0),
        "logit_bias": {source.randrange(VOCAB): source.uniform(-9.0, 9.0) for _ in range(5)},
    }
    if chosen["temperature"]:
        wishes |= {
            "top_k": source.choice([1, 2, 17, 300, VOCAB, 10**6]),
            "top_p": source.choice([1e-9, 0.1, 0.5, 0.95, 0.999999]),
            "min_p": source.choice([1e-6, 0.01, 0.3, 1.0]),
        }
    return chosen | {name: value for name, value in wishes.items() if source.random() < 0.5}


def test_it_reproduces_the_token_for_1000_random_settings() -> None:
    source, numbers = random.Random(5), np.random.default_rng(5)
    drawn = 0
    for case in range(1000):
        params = SamplingParams(**settings(source))
        prompt = [source.randrange(VOCAB) for _ in range(source.randrange(1, 30))]
        sampler = Sampler(params, prompt)
        output: list[int] = []
        for position in range(3):
            logits = (numbers.standard_normal(VOCAB) * source.choice([0.1, 3.0, 30.0])).astype(np.float32)
            if case % 3 == 0:
                logits = logits.round()  # many are equal
            chain = follow(logits, params, seed=sampler.seed, prompt=prompt, output=output)
            if params.temperature:
                expected = Sampler(params, prompt)
                for token in output:
                    expected.accept(token)
                left = expected.distribution(logits)
                ids = np.arange(VOCAB) if left.ids is None else left.ids
                np.testing.assert_array_equal(chain.kept, ids)
                np.testing.assert_allclose(chain.weights, left.weights, rtol=1e-15)
                drawn += 1
            token = sampler.sample(logits, position).id
            assert chain.chosen == token, (case, params)
            output.append(token)
    assert drawn > 2000


@dataclass
class Lots:
    """Allows tokens by lot, drawn anew for each."""

    seed: int
    vocab_size: int = VOCAB
    source: Source | None = None
    finished: bool = False

    def begin(self) -> Lots:
        self._numbers = np.random.default_rng(self.seed)
        self.accept(0)
        return self

    def allowed(self) -> Bools:
        return self._allowed

    def accept(self, token: int) -> None:
        self._allowed = self._numbers.random(VOCAB) < 0.02
        self._allowed[self._numbers.integers(VOCAB)] = True


def test_with_a_grammar_it_reproduces_the_token_too() -> None:
    source, numbers = random.Random(6), np.random.default_rng(6)
    for case in range(300):
        params = SamplingParams(**settings(source))
        sampler, walk = Sampler(params, [1, 2], Lots(case)), Lots(case).begin()
        output: list[int] = []
        for position in range(2):
            logits = (numbers.standard_normal(VOCAB) * 3.0).astype(np.float32)
            allowed = walk.allowed()
            chain = follow(logits, params, seed=sampler.seed, prompt=[1, 2], output=output, allowed=allowed)
            token = sampler.sample(logits, position).id
            assert chain.chosen == token, (case, params)
            assert allowed[chain.kept].all()
            assert chain.probabilities[~allowed].sum() == 0.0
            told = describe_chain(chain, str, token)
            assert told["order"] == list(ORDER)
            assert all(allowed[each["id"]] for each in told["candidates"])  # type: ignore[attr-defined]
            grammar = told["grammar"]
            assert (grammar["allowed"], grammar["vocabulary"]) == (allowed.sum(), VOCAB)  # type: ignore[index]
            barred = [each["id"] for each in grammar["barred"]]  # type: ignore[index]
            assert not allowed[barred].any()
            assert chain.penalised[barred[0]] == chain.penalised[~allowed].max()
            output.append(token)
            walk.accept(token)


def test_each_number_has_its_place() -> None:
    logits = np.array([2.0, 1.0, 0.5, 0.0, -3.0, 1.0], np.float32)
    params = SamplingParams(temperature=0.5, top_k=5, top_p=0.97, min_p=0.05, seed=11)
    chain = follow(logits, params, seed=11, prompt=[0], output=[])
    np.testing.assert_allclose(chain.scaled, logits / 0.5)
    weights = np.exp(logits.astype(float) / 0.5)
    np.testing.assert_allclose(chain.probabilities, weights / weights.sum())
    assert chain.likeliest(6).tolist() == [0, 1, 5, 2, 3, 4]
    # The last of six falls to top-k; 0.97 of what is left needs four; 0.05 · max cuts the last of those.
    cut = {token: CUTS[code - 1] if code else None for token, code in enumerate(chain.cut)}
    assert cut == {0: None, 1: None, 5: None, 2: "min_p", 3: "top_p", 4: "top_k"}
    assert chain.kept.tolist() == [0, 1, 5]
    kept = weights[[0, 1, 5]] / weights[[0, 1, 5]].sum()
    assert [chain.final(token) for token in (0, 1, 5)] == pytest.approx(kept.tolist())
    assert chain.final(4) == 0.0
    assert chain.bucket(4) is None
    buckets = [chain.bucket(token) for token in (0, 1, 5)]
    assert buckets[0] is not None and buckets[0][0] == 0.0
    assert buckets[-1] is not None and buckets[-1][1] == 1.0
    mine = chain.bucket(chain.chosen)
    assert mine is not None and chain.uniform is not None
    assert mine[0] <= chain.uniform < mine[1]


def test_greedy_draws_nothing() -> None:
    logits = np.array([0.0, 3.0, 3.0], np.float32)
    chain = follow(logits, SamplingParams(repetition_penalty=2.0), seed=0, prompt=[1], output=[])
    assert (chain.greedy, chain.uniform, chain.chosen) == (True, None, 2)
    assert chain.penalised.tolist() == [0.0, 1.5, 3.0]
    assert chain.bucket(2) is None
    assert chain.final(2) == 1.0


def test_the_description_lists_the_likeliest_and_sums_up_the_rest() -> None:
    logits = np.random.default_rng(0).standard_normal(VOCAB).astype(np.float32)
    params = SamplingParams(temperature=1.0, seed=2)
    chain = follow(logits, params, seed=2, prompt=[0], output=[])
    told = describe_chain(chain, str, chain.chosen)
    candidates: list[Any] = told["candidates"]  # type: ignore[assignment]
    rest: Any = told["rest"]
    assert len(candidates) == LISTED[1]
    assert chain.chosen in [each["id"] for each in candidates]
    assert rest["count"] == VOCAB - len(candidates)
    assert sum(each["probability"] for each in candidates) + rest["probability"] == pytest.approx(
        1.0, abs=1e-4
    )
    assert sum(rest["histogram"]["counts"]) == rest["count"]
    # Enough to estimate what the rest has at another temperature.
    middle = rest["histogram"]["low"] + rest["histogram"]["width"] * (np.arange(32) + 0.5)
    estimate = (np.exp(middle / 1.5) * rest["histogram"]["counts"]).sum()
    exact = np.exp(np.delete(logits, [each["id"] for each in candidates]) / 1.5).sum()
    assert estimate == pytest.approx(exact, rel=0.02)
    sure = follow(logits * 50, params, seed=2, prompt=[0], output=[])
    assert len(describe_chain(sure, str, 0)["candidates"]) == LISTED[0]  # type: ignore[arg-type]
    few = SamplingParams(temperature=1.0, top_k=30, seed=2)
    told = describe_chain(follow(logits, few, seed=2, prompt=[0], output=[]), str, chain.chosen)
    assert told["kept"] == 30


def test_the_normalizer_is_that_of_a_log_softmax() -> None:
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    highest, norm = log_normalizer(logits)
    assert highest == 3.0
    assert norm == pytest.approx(np.log(np.exp([-2.0, -1.0, 0.0]).sum()))
