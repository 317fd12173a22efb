"""The step loop: a request's tokens are the same whatever happens around it, and it has one end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace

import pytest

from boli.engine.sampling import Sampled, SamplingParams
from boli.errors import ContextLengthExceeded, PromptError, UsageError
from engine.toy_engine import (
    CONTEXT,
    GREEDY,
    PENALISED,
    SAMPLED,
    make_engine,
    output,
    run_all,
    some_prompt,
)
from engine.toy_runner import ToyRunner, expected_tokens


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"])
@pytest.mark.parametrize(("max_rows", "budget"), [(8, 1), (8, 3), (20, 3), (20, 16), (64, 64)])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_tokens_do_not_depend_on_neighbours_or_chunks(
    count: int, max_rows: int, budget: int, params: SamplingParams
) -> None:
    engine = make_engine(num_pages=128, max_rows=max_rows, prefill_budget=budget)
    prompts = [some_prompt(3 + 5 * index, index) for index in range(count)]
    requests = [engine.submit(prompt, params) for prompt in prompts]
    run_all(engine)
    for prompt, request in zip(prompts, requests, strict=True):
        assert output(request) == expected_tokens(prompt, params)
        assert request.finish_reason == "length"


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_tokens_do_not_depend_on_order_or_on_when_neighbours_come(order: Sequence[int]) -> None:
    engine = make_engine(prefill_budget=3, max_rows=8)
    prompts = [some_prompt(2 + 7 * index, index) for index in range(4)]
    requests = {}
    for index in order:
        requests[index] = engine.submit(prompts[index], SAMPLED)
        engine.step()
        engine.step()
    run_all(engine)
    for index, request in requests.items():
        assert output(request) == expected_tokens(prompts[index], SAMPLED)


@pytest.mark.parametrize("num_pages", [16, 18, 20])
@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"])
def test_preemption_does_not_change_the_answer(num_pages: int, params: SamplingParams) -> None:
    """Pages for little more than one context, eight requests: all end, with the tokens they have alone."""
    engine = make_engine(num_pages=num_pages)
    long = replace(params, max_tokens=40)
    prompts = [some_prompt(6 + index, index) for index in range(8)]
    requests = [engine.submit(prompt, long) for prompt in prompts]
    run_all(engine)
    assert engine.scheduler.preemptions > 0
    for prompt, request in zip(prompts, requests, strict=True):
        assert output(request) == expected_tokens(prompt, long)
    assert engine.scheduler.pool.used == 0


def test_more_requests_than_sequences_queue() -> None:
    engine = make_engine(max_sequences=2, max_rows=4)
    requests = [engine.submit([index], GREEDY) for index in range(5)]
    engine.step()
    assert [request.state for request in requests] == ["running"] * 2 + ["waiting"] * 3
    run_all(engine)
    assert [request.finish_reason for request in requests] == ["length"] * 5
    assert [request.started for request in requests] == sorted(request.started for request in requests)


def test_the_listener_ends_a_request() -> None:
    engine = make_engine()
    expected = expected_tokens([1, 2, 3], GREEDY)
    seen: list[int] = []

    def listener(sampled: Sampled) -> bool:
        seen.append(sampled.id)
        return len(seen) == 4

    request = engine.submit([1, 2, 3], GREEDY, listener=listener)
    run_all(engine)
    assert (request.finish_reason, output(request), seen) == ("stop", expected[:4], expected[:4])


def test_times_are_those_of_the_first_step_the_first_token_and_the_end() -> None:
    engine = make_engine(max_rows=3, max_sequences=1)
    before = engine.submit([5], GREEDY)
    request = engine.submit(some_prompt(8, 1), GREEDY)
    run_all(engine)
    assert before.finished_at <= request.started < request.first_token < request.finished_at
    other = engine.submit(some_prompt(8, 1), GREEDY)
    while not other.output:
        assert other.first_token == 0.0
        engine.step()
    first = other.first_token
    run_all(engine)
    assert other.first_token == first


def test_the_context_ends_a_request() -> None:
    engine = make_engine()
    prompt = some_prompt(CONTEXT - 5, 1)
    request = engine.submit(prompt, SamplingParams(max_tokens=100))
    run_all(engine)
    assert request.finish_reason == "length"
    assert output(request) == expected_tokens(prompt, SamplingParams(max_tokens=5))


@pytest.mark.parametrize("excess", [0, 1, 1000])
def test_a_prompt_that_leaves_no_room_is_refused_at_once(excess: int) -> None:
    engine = make_engine()
    with pytest.raises(
        ContextLengthExceeded, match=f"{CONTEXT + excess:,} tokens; the context holds {CONTEXT}"
    ):
        engine.submit([0] * (CONTEXT + excess), GREEDY)
    assert not engine.step()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([97], "token id 97 "), ([5, -1], "token id -1 "), ([2**40], "token id")],
)
def test_a_wrong_prompt_is_refused_at_once(prompt: list[int], message: str) -> None:
    engine = make_engine()
    with pytest.raises(PromptError, match=message):
        engine.submit(prompt, GREEDY)
    assert not engine.step()


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 30])
def test_abort_in_any_state_once_or_twice(steps: int) -> None:
    engine = make_engine(prefill_budget=3)
    other = engine.submit([9], GREEDY)
    request = engine.submit(some_prompt(11, 3), GREEDY)
    for _ in range(steps):
        engine.step()
    engine.abort(request)
    engine.abort(request)
    assert request.finish_reason == ("length" if steps == 30 else "aborted")
    run_all(engine)
    assert output(other) == expected_tokens([9], GREEDY)
    assert engine.scheduler.pool.used == 0


def test_abort_from_inside_a_step_is_carried_out_when_the_step_ends() -> None:
    """As a finalizer does that the garbage collector runs in the middle of a step."""
    engine = make_engine()
    victim = engine.submit([1], GREEDY)
    states: list[str] = []

    def listener(sampled: Sampled) -> bool:
        engine.abort(victim)
        states.append(victim.state)
        return False

    request = engine.submit([2], GREEDY, listener=listener)
    engine.step()
    assert (states, victim.finish_reason) == (["running"], "aborted")
    run_all(engine)
    assert output(request) == expected_tokens([2], GREEDY)


def test_a_closed_engine_ends_its_requests_and_its_runner() -> None:
    engine = make_engine()
    request = engine.submit([1], GREEDY)
    engine.step()
    engine.close()
    engine.close()
    assert request.finish_reason == "aborted"
    assert isinstance(engine.runner, ToyRunner)
    assert engine.runner.closed
    with pytest.raises(UsageError, match="closed"):
        engine.submit([1], GREEDY)


def test_threads_share_the_steps() -> None:
    engine = make_engine(num_pages=40, max_sequences=4)
    results: dict[int, list[int]] = {}

    def work(index: int) -> None:
        request = engine.submit(some_prompt(4 + index, index), SAMPLED)
        while not request.finished:
            engine.step()
        results[index] = output(request)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {index: expected_tokens(some_prompt(4 + index, index), SAMPLED) for index in range(12)}
    assert engine.scheduler.pool.used == 0


def test_the_engine_lets_go_of_a_request_that_ended() -> None:
    engine = make_engine()
    request = engine.submit([1], GREEDY)
    run_all(engine)
    ended = weakref.ref(request)
    del request
    gc.collect()
    assert ended() is None
