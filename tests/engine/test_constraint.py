"""Outputs that must follow a rule: the sampler and the engine under constraints made for the test."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest

from boli.engine.batch import Float32
from boli.engine.constraint import Bools, Source, Walk
from boli.engine.engine import Engine
from boli.engine.random import uniform
from boli.engine.request import Request
from boli.engine.sampling import Sampler, SamplingParams
from boli.errors import GrammarError, SamplingError
from engine.books import audit
from engine.toy_engine import (
    GREEDY,
    PENALISED,
    SAMPLED,
    foretell,
    make_engine,
    output,
    run_all,
    some_prompt,
)
from engine.toy_runner import expected_logits

VOCAB = 97


@dataclass
class Stairs:
    """Each token must have a certain rest by division, which depends on the token before it.

    Attributes:
        length: How many tokens make it complete; then nothing may follow.
        dead_end: After so many tokens nothing is allowed.
        broken: After so many tokens the walk raises an error of its own.
    """

    length: int = 10**9
    dead_end: int = 10**9
    broken: int = 10**9
    vocab_size: int = VOCAB
    begun: int = 0
    source: Source | None = None

    def begin(self) -> Walk:
        self.begun += 1
        return StairsWalk(self)


@dataclass
class StairsWalk:
    rule: Stairs
    taken: list[int] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return len(self.taken) >= self.rule.length

    def allowed(self) -> Bools:
        if len(self.taken) >= self.rule.broken:
            raise ZeroDivisionError("a rule with a fault")
        if len(self.taken) >= self.rule.dead_end:
            return np.zeros(VOCAB, np.bool_)
        return permitted(self.taken)

    def accept(self, token: int) -> None:
        assert permitted(self.taken)[token], "a token that was not allowed came through"
        self.taken.append(token)


def permitted(taken: list[int]) -> Bools:
    last = taken[-1] if taken else 0
    mask: Bools = np.arange(VOCAB) % 3 == (last * 7 + 1) % 3
    return mask


def oracle(prompt: list[int], params: SamplingParams) -> list[int]:
    """The answer under `Stairs`: logits of what is forbidden are so low that they have no share."""
    sampler, taken = Sampler(replace(params, logprobs=None), prompt), list[int]()
    for position in range(params.max_tokens):
        logits = expected_logits(prompt + taken)
        # Steps 1 to 3 of the chain, then the rule, then the rest with a sampler that has no penalties.
        penalised = sampler._penalties.apply(logits)
        masked: Float32 = np.where(permitted(taken), penalised, np.float32(-1e9))
        plain = replace(
            params, repetition_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0,
            logit_bias=(), logprobs=None,
        )  # fmt: skip
        token = Sampler(plain).sample(masked, position).id
        sampler.accept(token)
        taken.append(token)
    return taken


ALL = [GREEDY, SAMPLED, PENALISED, replace(GREEDY, logit_bias=((4, 50.0), (5, 50.0), (6, 50.0)))]
NAMES = ["greedy", "sampled", "penalised", "biased"]


@pytest.mark.parametrize("params", ALL, ids=NAMES)
def test_a_constrained_answer(params: SamplingParams) -> None:
    engine, prompt = make_engine(), some_prompt(9, 1)
    request = engine.submit(prompt, params, constraint=Stairs())
    run_all(engine)
    assert output(request) == oracle(prompt, params)
    assert output(request) != output(alone(prompt, params)), "the rule forbids what would come by itself"


def alone(prompt: list[int], params: SamplingParams, **settings: int) -> Request:
    engine = make_engine(**settings)
    request = engine.submit(prompt, params)
    run_all(engine)
    return request


@pytest.mark.parametrize("params", ALL, ids=NAMES)
@pytest.mark.parametrize("every", [1, 2, 3, 10**9])
@pytest.mark.parametrize("depth", [1, 3, 30])
def test_guesses_never_change_a_constrained_answer(depth: int, every: int, params: SamplingParams) -> None:
    engine, prompt = make_engine(depth=depth), some_prompt(9, 1)
    params = replace(params, max_tokens=30)
    expected = oracle(prompt, params)
    request = engine.submit(prompt, params, constraint=Stairs())
    foretell(request, expected, every)
    while engine.step():
        audit(engine, [request])
    assert output(request) == expected
    assert request.guesses is not None
    assert (request.guesses.accepted > 0) == (every > 1)


def test_preemption_does_not_change_constrained_answers() -> None:
    engine = make_engine(num_pages=16, max_sequences=4)
    prompts = [some_prompt(9, seed) for seed in range(6)]
    params = [replace(ALL[seed % 4], max_tokens=30, seed=seed) for seed in range(6)]
    requests = [
        engine.submit(prompt, each, constraint=Stairs()) for prompt, each in zip(prompts, params, strict=True)
    ]
    run_all(engine)
    assert engine.scheduler.preemptions > 0
    for request, prompt, each in zip(requests, prompts, params, strict=True):
        assert output(request) == oracle(prompt, each)


def test_requests_share_a_constraint_and_walk_alone() -> None:
    engine, rule = make_engine(), Stairs()
    prompt = some_prompt(9, 2)
    params = [replace(SAMPLED, seed=seed) for seed in range(5)]
    requests = [engine.submit(prompt, each, constraint=rule) for each in params]
    run_all(engine)
    assert rule.begun == 5
    answers = [output(request) for request in requests]
    assert answers == [oracle(prompt, each) for each in params]
    assert len(set(map(tuple, answers))) == 5


@pytest.mark.parametrize("depth", [None, 4])
def test_a_fulfilled_constraint_ends_the_answer(depth: int | None) -> None:
    engine, prompt = make_engine(depth=depth), some_prompt(9, 1)
    params = replace(GREEDY, max_tokens=30, ignore_eos=True)
    request = engine.submit(prompt, params, constraint=Stairs(length=7))
    if depth is not None:
        foretell(request, oracle(prompt, params), 10**9)
    run_all(engine)
    assert output(request) == oracle(prompt, params)[:7]
    assert request.finish_reason == "stop"


def test_an_answer_that_is_cut_off_says_so() -> None:
    engine = make_engine()
    request = engine.submit(some_prompt(9, 1), GREEDY, constraint=Stairs(length=13))
    run_all(engine)
    assert (len(output(request)), request.finish_reason) == (12, "length")


@pytest.mark.parametrize("depth", [None, 3])
@pytest.mark.parametrize(
    ("rule", "kind"),
    [(Stairs(dead_end=5), GrammarError), (Stairs(broken=5), ZeroDivisionError)],
    ids=["dead end", "fault"],
)
def test_a_dead_end_is_one_requests_trouble(rule: Stairs, kind: type[Exception], depth: int | None) -> None:
    engine = make_engine(depth=depth)
    prompts = [some_prompt(9, seed) for seed in range(8)]
    bad = engine.submit(prompts[0], SAMPLED, constraint=rule)
    good = [engine.submit(prompt, SAMPLED, constraint=Stairs()) for prompt in prompts[1:4]]
    free = [engine.submit(prompt, SAMPLED) for prompt in prompts[4:]]
    while engine.step():
        audit(engine, [bad, *good, *free])
    assert bad.finish_reason == "error"
    assert isinstance(bad.error, kind)
    assert len(output(bad)) == 5
    for request, prompt in zip(good, prompts[1:4], strict=True):
        assert output(request) == oracle(prompt, SAMPLED)
    for request, prompt in zip(free, prompts[4:], strict=True):
        assert output(request) == output(alone(prompt, SAMPLED))


def test_log_probabilities_stay_the_models_own() -> None:
    engine, prompt = make_engine(), some_prompt(9, 1)
    params = replace(GREEDY, logprobs=3, logit_bias=((4, 50.0), (5, 50.0), (6, 50.0)))
    request = engine.submit(prompt, params, constraint=Stairs())
    run_all(engine)
    tokens = list(prompt)
    for sampled in request.output:
        logits = expected_logits(tokens).astype(np.float64)
        logprobs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert sampled.logprob == pytest.approx(logprobs[sampled.id], abs=1e-9)
        assert [token for token, _ in sampled.top] == np.argsort(-logprobs, kind="stable")[:3].tolist()
        tokens.append(sampled.id)


@pytest.mark.parametrize(
    "settings",
    [{}, {"top_k": 5}, {"top_k": 60}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 40, "top_p": 0.99}],
)
def test_draws_come_from_what_is_allowed_in_its_proportions(settings: dict[str, float]) -> None:
    logits = np.random.default_rng(4).normal(0.0, 2.0, VOCAB).astype(np.float32)
    params = SamplingParams.from_options({"temperature": 0.9, **settings})
    distribution = Sampler(params, constraint=Stairs()).distribution(logits)
    # The same filters over a vocabulary that has only the allowed tokens.
    allowed = np.flatnonzero(permitted([]))
    smaller = Sampler(params).distribution(logits[allowed])
    kept = np.arange(allowed.size) if smaller.ids is None else smaller.ids
    expected = dict(zip(allowed[kept].tolist(), smaller.probabilities.tolist(), strict=True))
    ids = np.arange(VOCAB) if distribution.ids is None else distribution.ids
    found = dict(zip(ids.tolist(), distribution.probabilities.tolist(), strict=True))
    assert {token for token, p in found.items() if p > 0.0} == set(expected)
    for token, probability in expected.items():
        assert found[token] == pytest.approx(probability, rel=1e-9)
    draws = Counter(distribution.pick(uniform(7, position)) for position in range(2000))
    assert set(draws) <= set(expected)


def test_bias_bans_forces_and_is_added() -> None:
    logits = np.array([1.0, 3.0, 2.0, 0.5], np.float32)

    def chosen(bias: dict[int, float], **more: float) -> int:
        params = SamplingParams.from_options({"logit_bias": bias, **more})
        return Sampler(params, [1]).sample(logits, 0).id

    assert chosen({1: -100}) == 2
    assert chosen({3: 100}) == 3
    assert chosen({0: 1.9}) == 1
    assert chosen({0: 2.1}) == 0
    # Before the repetition penalty: (3 + 9) / 3 < 2 + 2.5, but 3 / 3 + 9 > 2 + 2.5.
    assert chosen({1: 9.0, 2: 2.5}, repetition_penalty=3.0) == 2
    assert (logits == [1.0, 3.0, 2.0, 0.5]).all()


def test_a_bias_beyond_the_vocabulary_is_refused_before_anything_runs() -> None:
    engine = make_engine()
    with pytest.raises(SamplingError, match="token 97, which is not in the vocabulary"):
        engine.submit(some_prompt(3, 1), SamplingParams(logit_bias=((97, 1.0),)))
    assert not engine.step()
    request = engine.submit(some_prompt(3, 1), replace(GREEDY, logit_bias=((96, 100.0),)))
    run_all(engine)
    assert output(request) == [96] * 12


def test_a_constraint_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="of 96 tokens for 97"):
        make_engine().submit(some_prompt(3, 1), GREEDY, constraint=Stairs(vocab_size=96))


@pytest.mark.parametrize("neighbours", [0, 5])
def test_the_same_seed_gives_the_same_constrained_answer(neighbours: int) -> None:
    prompt = some_prompt(9, 3)
    make: partial[Engine] = partial(make_engine, depth=2)
    answers = []
    for _ in range(2):
        engine = make()
        for seed in range(neighbours):
            engine.submit(some_prompt(20, seed), SAMPLED)
        request = engine.submit(prompt, SAMPLED, constraint=Stairs())
        run_all(engine)
        answers.append(output(request))
    assert answers[0] == answers[1] == oracle(prompt, SAMPLED)
