"""Log-probabilities of a prompt's own tokens: exact, whatever the steps look like."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from boli.engine.request import Request
from boli.engine.sampling import SamplingParams, with_logprobs
from boli.engine.scheduler import SCORED_ROWS
from engine.toy_engine import GREEDY, make_engine, output, run_all, some_prompt
from engine.toy_runner import expected_logits, expected_tokens


def check(request: Request, prompt: Sequence[int]) -> None:
    assert request.prompt_scores == [
        with_logprobs(expected_logits(prompt[:place]), prompt[place], 3) for place in range(1, len(prompt))
    ]
    assert output(request) == expected_tokens(prompt, request.sampler.params)


@pytest.mark.parametrize("length", [1, 2, 3, 31, 50])
@pytest.mark.parametrize("depth", [None, 3])
def test_scores_are_those_of_the_model(length: int, depth: int | None) -> None:
    engine = make_engine(depth=depth, max_rows=16)
    prompt = some_prompt(length, 1)
    request = engine.submit(prompt, GREEDY, prompt_logprobs=3)
    run_all(engine)
    check(request, prompt)


def test_what_others_computed_is_computed_again() -> None:
    engine = make_engine()
    prompt = some_prompt(40, 1)
    engine.submit(prompt, GREEDY)
    run_all(engine)
    request = engine.submit(prompt, GREEDY, prompt_logprobs=3)
    run_all(engine)
    check(request, prompt)
    assert request.reused == 0


def test_a_step_scores_no_more_rows_than_its_share() -> None:
    engine = make_engine(max_rows=200, prefill_budget=200, num_pages=200)
    prompts = [some_prompt(50, seed) for seed in range(6)]
    requests = [engine.submit(prompt, GREEDY, prompt_logprobs=3) for prompt in prompts]
    plain = engine.submit(some_prompt(50, 9), GREEDY)
    most = 0
    while works := engine.scheduler.waiting or engine.scheduler.running:
        assert works
        engine.step()
        most = max(most, engine.runner.rows[-1])  # type: ignore[attr-defined]  # of the toy
    for request, prompt in zip(requests, prompts, strict=True):
        check(request, prompt)
    assert output(plain) == expected_tokens(some_prompt(50, 9), GREEDY)
    assert most <= SCORED_ROWS + 50 + 7


def test_scores_survive_preemption() -> None:
    engine = make_engine(num_pages=16, context=64)
    prompts = [some_prompt(20, seed) for seed in (1, 2)]
    long = SamplingParams(max_tokens=40)
    requests = [engine.submit(prompt, long, prompt_logprobs=3) for prompt in prompts]
    run_all(engine)
    assert engine.scheduler.preemptions > 0
    for request, prompt in zip(requests, prompts, strict=True):
        check(request, prompt)
