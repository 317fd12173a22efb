"""Several tokens in a step: the same text whatever was guessed, in fewer steps if guesses are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from boli.engine.batch import Batch, Float32
from boli.engine.engine import Engine
from boli.engine.request import Request
from boli.engine.sampling import Sampled, SamplingParams
from boli.engine.speculation import Speculation
from boli.errors import NumericError
from engine.books import audit
from engine.toy_engine import (
    CONTEXT,
    GREEDY,
    PENALISED,
    SAMPLED,
    foretell,
    make_engine,
    output,
    run_all,
    some_prompt,
)
from engine.toy_runner import ToyRunner, expected_tokens

NEVER = 10**9


def ask(engine: Engine, prompt: list[int], params: SamplingParams, *, every: int = NEVER) -> Request:
    """Submits a request whose guesses are right but for one in so many."""
    request = engine.submit(prompt, params)
    foretell(request, expected_tokens(prompt, params), every)
    return request


def rows_of(engine: Engine) -> list[int]:
    assert isinstance(engine.runner, ToyRunner)
    return engine.runner.rows


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"])
@pytest.mark.parametrize("depth", [1, 2, 5, 40])
@pytest.mark.parametrize("every", [1, 2, 3, NEVER])
def test_guesses_never_change_the_text(depth: int, every: int, params: SamplingParams) -> None:
    engine = make_engine(depth=depth)
    prompt, params = some_prompt(9, 1), replace(params, max_tokens=30, logprobs=2)
    request = ask(engine, prompt, params, every=every)
    while engine.step():
        audit(engine, [request])
    plain = make_engine()
    expected = plain.submit(prompt, params)
    run_all(plain)
    assert request.output == expected.output, "log-probabilities too"
    assert request.finish_reason == "length"


def test_right_guesses_save_steps_and_are_counted() -> None:
    engine = make_engine(depth=3)
    request = ask(engine, some_prompt(9, 1), replace(GREEDY, max_tokens=14))
    run_all(engine)
    # A step for the prompt; then four tokens each; behind the last one nothing is guessed.
    assert rows_of(engine) == [9, 4, 4, 4, 1]
    assert request.guesses is not None
    assert (request.guesses.drafted, request.guesses.accepted) == (9, 9)


def test_wrong_guesses_cost_their_rows_and_nothing_else() -> None:
    engine = make_engine(depth=3)
    request = ask(engine, some_prompt(9, 1), replace(GREEDY, max_tokens=6), every=1)
    run_all(engine)
    assert rows_of(engine) == [9, 4, 4, 3, 2, 1]
    assert request.guesses is not None
    assert (request.guesses.drafted, request.guesses.accepted) == (9, 0)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4, 5, 9])
def test_the_listener_ends_a_request_in_the_middle_of_a_draft(stop_after: int) -> None:
    engine = make_engine(depth=3)
    prompt, seen = some_prompt(9, 1), list[int]()

    def listener(sampled: Sampled) -> bool:
        seen.append(sampled.id)
        return len(seen) == stop_after

    request = engine.submit(prompt, GREEDY, listener=listener)
    foretell(request, expected_tokens(prompt, GREEDY), NEVER)
    run_all(engine)
    assert output(request) == seen == expected_tokens(prompt, GREEDY)[:stop_after]
    assert request.finish_reason == "stop"
    assert engine.scheduler.pool.used == 0


@pytest.mark.parametrize("max_tokens", range(1, 9))
def test_max_tokens_and_the_context_end_a_request_exactly(max_tokens: int) -> None:
    for prompt, params in (
        (some_prompt(9, 1), replace(GREEDY, max_tokens=max_tokens)),
        (some_prompt(CONTEXT - max_tokens, 2), replace(GREEDY, max_tokens=1000)),
    ):
        engine = make_engine(depth=5)
        request = engine.submit(prompt, params)
        answer = expected_tokens(prompt, replace(GREEDY, max_tokens=max_tokens + 8))
        foretell(request, answer, NEVER)
        run_all(engine)
        assert (output(request), request.finish_reason) == (answer[:max_tokens], "length")


def test_guesses_of_several_requests_share_a_bounded_step() -> None:
    engine = make_engine(depth=20, num_pages=128, max_rows=64, max_sequences=8)
    requests = [ask(engine, some_prompt(5, seed), replace(GREEDY, max_tokens=25)) for seed in range(4)]
    run_all(engine)
    for seed, request in enumerate(requests):
        assert output(request) == expected_tokens(some_prompt(5, seed), replace(GREEDY, max_tokens=25))
    assert max(rows_of(engine)[1:]) == 16, "no more logits than a full house has"


def test_beside_a_prompt_nothing_is_guessed() -> None:
    engine = make_engine(depth=3, prefill_budget=4, max_rows=16)
    first = ask(engine, some_prompt(4, 1), GREEDY)
    engine.step()
    ask(engine, some_prompt(11, 2), GREEDY)
    for _ in range(4):
        engine.step()
    assert rows_of(engine) == [4, 5, 5, 4, 8]
    assert len(first.output) == 1 + 3 + 4


def test_guesses_take_no_page_from_another_request() -> None:
    engine = make_engine(depth=6, num_pages=16, max_rows=32)
    older = ask(engine, some_prompt(31, 1), replace(GREEDY, max_tokens=30))
    younger = ask(engine, some_prompt(31, 2), replace(GREEDY, max_tokens=30))
    while engine.scheduler.pool.available:
        engine.step()
    assert engine.scheduler.preemptions == 0
    run_all(engine)
    assert output(older) == expected_tokens(some_prompt(31, 1), replace(GREEDY, max_tokens=30))
    assert output(younger) == expected_tokens(some_prompt(31, 2), replace(GREEDY, max_tokens=30))


@pytest.mark.parametrize("every", [1, 3, NEVER])
def test_what_was_guessed_wrongly_never_comes_into_the_tree(every: int) -> None:
    engine = make_engine(depth=7)
    prompt = some_prompt(6, 3)
    request = ask(engine, prompt, replace(GREEDY, max_tokens=40), every=every)
    while engine.step():
        computed = request.computed // 4 * 4
        found = engine.scheduler.new_table()
        assert engine.scheduler.tree.adopt(found, [*request.tokens, 0], None) == computed
        found.truncate(0)
    again = engine.submit([*request.tokens[:-5], 1], GREEDY)
    run_all(engine)
    assert output(again) == expected_tokens([*request.tokens[:-5], 1], GREEDY)
    assert again.reused == len(request.tokens[:-5]) // 4 * 4


def test_a_step_without_an_answer_to_be_wrong_about_is_not_reached() -> None:
    """NaN behind a token that ends the request would never have been computed."""

    def hook(batch: Batch, logits: Float32) -> None:
        logits[batch.positions[batch.logits_rows] > 10] = np.nan

    for stop_after, reason in ((3, "stop"), (4, "error")):
        engine, prompt = make_engine(depth=5, hook=hook), some_prompt(9, 1)
        seen: list[int] = []

        def listener(sampled: Sampled, seen: list[int] = seen, stop_after: int = stop_after) -> bool:
            seen.append(sampled.id)
            return len(seen) == stop_after

        request = engine.submit(prompt, GREEDY, listener=listener)
        foretell(request, expected_tokens(prompt, GREEDY), NEVER)
        run_all(engine)
        assert (request.finish_reason, len(request.output)) == (reason, 3)
        assert (reason == "error") == isinstance(request.error, NumericError)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"])
def test_the_real_drafter_and_policy_change_nothing(params: SamplingParams) -> None:
    """On a text that repeats itself: guesses are made, and many are right."""

    def hook(batch: Batch, logits: Float32) -> None:
        for index, row in enumerate(batch.logits_rows):
            logits[index, (batch.token_ids[row] + 1) % 7] += 30.0

    params = replace(params, max_tokens=200, repetition_penalty=1.0, frequency_penalty=0.0)
    texts = []
    for speculation in (None, Speculation()):
        engine = Engine(
            ToyRunner(hook=hook, num_pages=128), context=256, max_sequences=4, speculation=speculation
        )
        requests = [engine.submit([index, 2, 3], params) for index in range(2)]
        run_all(engine)
        texts.append([output(request) for request in requests])
    assert texts[0] == texts[1]
    accepted = [request.guesses.accepted for request in requests if request.guesses is not None]
    assert max(accepted) > 0
