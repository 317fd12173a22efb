"""The sampler against exact distributions, computed here in another, slower way."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from boli.engine.batch import Float32
from boli.engine.random import uniform
from boli.engine.sampling import Sampler, SamplingParams, largest
from boli.errors import NumericError

DRAWS = 100_000
VOCAB = 60
PROMPT = [3, 3, 7, 11, 40, 41]
OUTPUT = [7, 7, 7, 20, 21, 59]


@pytest.fixture(scope="module")
def uniforms() -> list[float]:
    return [uniform(2026, position) for position in range(DRAWS)]


def some_logits(size: int = VOCAB, seed: int = 1) -> Float32:
    return np.random.default_rng(seed).normal(0.0, 2.0, size).astype(np.float32)


def exact(logits: Float32, params: SamplingParams) -> dict[int, float]:
    """The probabilities that the module's docstring promises, term by term in plain Python."""
    values = {token: float(value) for token, value in enumerate(logits)}
    for token, bias in params.logit_bias:
        values[token] += bias
    for token in set(PROMPT) | set(OUTPUT):
        factor = params.repetition_penalty
        values[token] = values[token] / factor if values[token] > 0 else values[token] * factor
    for token, count in Counter(OUTPUT).items():
        values[token] -= params.frequency_penalty * count + params.presence_penalty
    values = {token: value / params.temperature for token, value in values.items()}
    order = sorted(values, key=lambda token: (-values[token], token))
    if params.top_k:
        order = order[: params.top_k]
    probabilities = softmax({token: values[token] for token in order})
    reached, nucleus = 0.0, []
    for token in order:
        nucleus.append(token)
        reached += probabilities[token]
        if reached >= params.top_p:
            break
    probabilities = {token: probabilities[token] for token in nucleus}
    limit = params.min_p * max(probabilities.values())
    kept = {token: p for token, p in probabilities.items() if p >= limit}
    total = math.fsum(kept.values())
    return {token: p / total for token, p in kept.items()}


def softmax(values: dict[int, float]) -> dict[int, float]:
    highest = max(values.values())
    weights = {token: math.exp(value - highest) for token, value in values.items()}
    total = math.fsum(weights.values())
    return {token: weight / total for token, weight in weights.items()}


def chi_square_exceeds(counts: Counter[int], probabilities: dict[int, float]) -> bool:
    """Whether the counts are less likely than about one in a million (Wilson and Hilferty's bound)."""
    if set(counts) - set(probabilities):
        return True
    # Cells that expect fewer than 10 draws are taken together.
    cells, rest = [], [0.0, 0.0]
    for token, p in probabilities.items():
        expected, seen = p * DRAWS, counts[token]
        if expected < 10:
            rest = [rest[0] + expected, rest[1] + seen]
        else:
            cells.append((expected, seen))
    if rest[0] > 0:
        cells.append((rest[0], int(rest[1])))
    statistic = sum((seen - expected) ** 2 / expected for expected, seen in cells)
    freedom = max(1, len(cells) - 1)
    spread = 2 / (9 * freedom)
    return statistic > freedom * (1 - spread + 4.75 * math.sqrt(spread)) ** 3


COMBINATIONS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"temperature": 1.0, "top_k": 7},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.07},
    {"temperature": 1.0, "repetition_penalty": 1.4},
    {"temperature": 1.0, "repetition_penalty": 0.7},
    {"temperature": 1.0, "frequency_penalty": 0.8},
    {"temperature": 1.0, "presence_penalty": -1.5},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 30, "min_p": 0.05},
    {"temperature": 1.3, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 1.0, "logit_bias": {3: 1.5, 12: -2.0, 59: 2.5}},
    {
        "temperature": 0.9, "top_k": 25, "top_p": 0.97, "min_p": 0.01,
        "repetition_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": 0.5,
        "logit_bias": {7: 1.0, 20: -0.7, 30: 4.0},
    },
]  # fmt: skip


def sampler_with_history(params: SamplingParams) -> Sampler:
    sampler = Sampler(params, PROMPT)
    for token in OUTPUT:
        sampler.accept(token)
    return sampler


@pytest.mark.parametrize("settings", COMBINATIONS, ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()))
def test_100_000_draws_follow_the_exact_distribution(settings: dict[str, Any], uniforms: list[float]) -> None:
    params = SamplingParams(seed=2026, **settings)
    logits, sampler = some_logits(), sampler_with_history(params)
    distribution, expected = sampler.distribution(logits), exact(logits, params)
    ids = range(VOCAB) if distribution.ids is None else distribution.ids.tolist()
    probabilities = dict(zip(ids, distribution.probabilities.tolist(), strict=True))
    assert set(probabilities) == set(expected)
    for token, probability in expected.items():
        assert probabilities[token] == pytest.approx(probability, rel=2e-6)
    counts = Counter(map(distribution.pick, uniforms))
    assert not chi_square_exceeds(counts, expected)


def test_the_chi_square_test_would_notice_a_small_error(uniforms: list[float]) -> None:
    logits = some_logits()
    sampler = sampler_with_history(SamplingParams(temperature=1.03))
    counts = Counter(map(sampler.distribution(logits).pick, uniforms))
    assert chi_square_exceeds(counts, exact(logits, SamplingParams(temperature=1.0)))


def test_draws_from_a_large_vocabulary_follow_the_exact_distribution(uniforms: list[float]) -> None:
    logits, params = some_logits(3001, seed=8), SamplingParams(temperature=0.5)
    counts = Counter(map(Sampler(params).distribution(logits).pick, uniforms))
    expected = softmax({token: float(value) / params.temperature for token, value in enumerate(logits)})
    assert not chi_square_exceeds(counts, expected)
    shifted = Counter({token + 1: count for token, count in counts.items() if token < 3000})
    assert chi_square_exceeds(shifted, expected)


def test_picks_from_a_large_vocabulary_are_those_of_the_whole_sum() -> None:
    distribution = Sampler(SamplingParams(temperature=1.0)).distribution(some_logits(49_152, seed=2))
    cumulated = np.cumsum(distribution.weights)
    for position in range(2000):
        number = uniform(3, position)
        whole = int(np.searchsorted(cumulated, number * cumulated[-1], side="right"))
        assert distribution.pick(number) == whole


@pytest.mark.parametrize("settings", [COMBINATIONS[0], COMBINATIONS[-1]])
def test_sample_draws_from_that_distribution_at_its_position(settings: dict[str, Any]) -> None:
    params = SamplingParams(seed=99, **settings)
    logits = some_logits()
    for position in range(100):
        sampler = sampler_with_history(params)
        expected = sampler.distribution(logits).pick(uniform(99, position))
        assert sampler.sample(logits, position).id == expected


@pytest.mark.parametrize("size", [1, 2, 1000, 49_152])
@pytest.mark.parametrize("settings", COMBINATIONS[3:5] + COMBINATIONS[10:13])
def test_large_vocabularies_keep_the_same_tokens(size: int, settings: dict[str, Any]) -> None:
    params = SamplingParams(**settings)
    logits = some_logits(size, seed=size)
    probabilities = np.exp((logits.astype(np.float64) - logits.max()) / params.temperature)
    order = np.lexsort((np.arange(size), -logits))
    if params.top_k:
        order = order[: params.top_k]
    cumulated = np.cumsum(probabilities[order]) / probabilities[order].sum()
    order = order[: int((cumulated < params.top_p).sum()) + 1]
    kept = order[probabilities[order] >= params.min_p * probabilities[order[0]]]
    ids = Sampler(params).distribution(logits).ids
    assert (np.arange(size) if ids is None else np.sort(ids)).tolist() == sorted(kept.tolist())


def test_greedy_takes_the_largest_and_the_lowest_of_equals() -> None:
    logits = np.array([1, 5, 5, 2], np.float32)
    assert Sampler(SamplingParams()).sample(logits, 0).id == 1


def test_greedy_with_penalties() -> None:
    sampler = Sampler(SamplingParams(frequency_penalty=1.5))
    logits = np.array([4.0, 3.0, 2.75, 0.0], np.float32)
    assert [sampler.sample(logits, position).id for position in range(6)] == [0, 1, 2, 0, 1, 2]
    assert logits.tolist() == [4.0, 3.0, 2.75, 0.0], "the runner's array is not ours to change"
    repeated = Sampler(SamplingParams(repetition_penalty=2.0), prompt_ids=[0, 1])
    assert repeated.sample(np.array([4.0, -1.0, 2.1, -1.5], np.float32), 0).id == 2
    assert repeated.sample(np.array([-9.0, -1.0, -9.0, -1.5], np.float32), 1).id == 3


def test_penalties_cannot_push_a_logit_out_of_its_range() -> None:
    params = SamplingParams(temperature=1.0, repetition_penalty=1e-300, seed=1)
    logits = np.array([1e30, 1.0, -1e30], np.float32)
    assert Sampler(params, [0]).sample(logits, 0).id == 0


@pytest.mark.parametrize("settings", [{"top_k": 3}, {"top_p": 0.55}, {"top_k": 3, "top_p": 0.999}])
def test_ties_go_to_the_lower_ids(settings: dict[str, Any]) -> None:
    logits = np.array([0, 1, 1, 1, 1, 0], np.float32)
    distribution = Sampler(SamplingParams(temperature=1.0, **settings)).distribution(logits)
    assert distribution.ids is not None
    assert distribution.ids.tolist() == [1, 2, 3]


def test_min_p_1_keeps_all_tokens_as_likely_as_the_first() -> None:
    distribution = Sampler(SamplingParams(temperature=1.0, min_p=1.0)).distribution(
        np.array([0, 2, 1, 2], np.float32)
    )
    assert distribution.ids is not None
    assert distribution.ids.tolist() == [1, 3]


@pytest.mark.parametrize("temperature", [1e-300, 5e-324])
def test_a_tiny_temperature_is_greedy_and_shares_ties(temperature: float) -> None:
    distribution = Sampler(SamplingParams(temperature=temperature)).distribution(
        np.array([0, 2, 1, 2], np.float32)
    )
    assert distribution.probabilities.tolist() == [0.0, 0.5, 0.0, 0.5]
    assert {distribution.pick(u) for u in (0.0, 0.49, 0.5, 1 - 2**-53)} == {1, 3}


def test_a_huge_temperature_is_uniform() -> None:
    probabilities = Sampler(SamplingParams(temperature=1e300)).distribution(some_logits()).probabilities
    assert np.allclose(probabilities, 1 / VOCAB, rtol=1e-12)


@pytest.mark.parametrize("size", [4, 1000, 49_152])
def test_the_ends_of_the_interval_pick_tokens_that_can_happen(size: int) -> None:
    logits = np.full(size, -1e30, np.float32)
    logits[1], logits[size // 2] = 0.0, -3.0
    distribution = Sampler(SamplingParams(temperature=1.0)).distribution(logits)
    assert distribution.pick(0.0) == 1
    assert distribution.pick(1 - 2**-53) == size // 2


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_logprobs_are_the_models_and_not_the_samplers(count: int) -> None:
    logits = some_logits()
    params = SamplingParams(
        temperature=0.3, top_k=2, repetition_penalty=1.9, frequency_penalty=1.0, logprobs=count, seed=4
    )
    sampled = Sampler(params, PROMPT).sample(logits, 0)
    reference = softmax({token: float(value) for token, value in enumerate(logits)})
    assert sampled.logprob == pytest.approx(math.log(reference[sampled.id]), abs=1e-12)
    order = sorted(reference, key=lambda token: (-reference[token], token))[:count]
    assert [token for token, _ in sampled.top] == order
    assert [p for _, p in sampled.top] == pytest.approx([math.log(reference[t]) for t in order], abs=1e-12)


def test_logprobs_zero_gives_the_chosen_token_only_and_none_gives_nothing() -> None:
    logits = some_logits()
    assert Sampler(SamplingParams(logprobs=0)).sample(logits, 0).top == ()
    assert Sampler(SamplingParams(logprobs=0)).sample(logits, 0).logprob is not None
    assert Sampler(SamplingParams()).sample(logits, 0).logprob is None


def test_logprobs_of_extreme_logits_are_finite() -> None:
    sampled = Sampler(SamplingParams(logprobs=2)).sample(np.array([3e38, -3e38], np.float32), 0)
    assert sampled.logprob == 0.0
    assert [token for token, _ in sampled.top] == [0, 1]
    assert sampled.top[1][1] == pytest.approx(-6e38)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 31, VOCAB - 1])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"repetition_penalty": 1.1}])
def test_logits_that_are_no_numbers_are_an_error(bad: float, place: int, settings: dict[str, Any]) -> None:
    logits = some_logits()
    logits[place] = bad
    with pytest.raises(NumericError, match="NaN" if math.isnan(bad) else "infinity"):
        Sampler(SamplingParams(**settings), PROMPT).sample(logits, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"logprobs": 3},
        {"temperature": 0.9, "top_k": 5},
        {"repetition_penalty": 1.5},
        {"temperature": 1.0},
    ],
)
def test_a_runner_that_knows_the_largest_logit_changes_nothing(settings: dict[str, Any]) -> None:
    for seed in range(20):
        logits = some_logits(seed=seed)
        told, alone = (Sampler(SamplingParams(**settings, seed=1), PROMPT) for _ in range(2))
        assert told.sample(logits, seed, int(logits.argmax())) == alone.sample(logits, seed)


def test_a_runner_that_knows_the_largest_logit_saves_looking_for_it() -> None:
    assert Sampler(SamplingParams()).sample(some_logits(), 0, 7).id == 7


def test_a_seed_is_drawn_if_none_is_given_and_repeats_the_run() -> None:
    logits = some_logits()
    first = Sampler(SamplingParams(temperature=1.0))
    assert first.seed != Sampler(SamplingParams(temperature=1.0)).seed
    again = Sampler(SamplingParams(temperature=1.0, seed=first.seed))
    draws = [first.sample(logits, position).id for position in range(50)]
    assert draws == [again.sample(logits, position).id for position in range(50)]
    assert len(set(draws)) > 5


@pytest.mark.parametrize("count", [1, 3, 59, 60, 61, 800])
@pytest.mark.parametrize("size", [60, 64, 1000, 6400])
def test_largest_against_a_full_sort(size: int, count: int) -> None:
    values = np.random.default_rng(3).integers(0, 40, size).astype(np.float32)
    expected = sorted(range(size), key=lambda index: (-values[index], index))[:count]
    assert largest(values, count).tolist() == expected
