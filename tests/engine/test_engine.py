"""The step loop on the toy runner: same tokens whatever happens around a request, and one end for each."""

from __future__ import annotations

import gc
import random
import sys
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import pytest

from boli.engine import engine as engine_module
from boli.engine.batch import Batch, Float32
from boli.engine.engine import Engine
from boli.engine.request import Request
from boli.engine.sampling import Sampled, SamplingParams
from boli.errors import ContextLengthExceeded, NumericError, PromptError, UsageError
from engine.toy_runner import ToyRunner, expected_tokens

CONTEXT = 64


def make_engine(
    *, chunk: int | None = None, max_sequences: int = 8, context: int = CONTEXT, **runner: Any
) -> Engine:
    return Engine(ToyRunner(**runner), context=context, max_sequences=max_sequences, chunk=chunk)


def run_all(engine: Engine) -> None:
    for _ in range(10_000):
        if not engine.step():
            return
    raise AssertionError("the engine does not come to an end")


def output(request: Request) -> list[int]:
    return [sampled.id for sampled in request.output]


def some_prompt(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(97), k=length)


GREEDY = SamplingParams(max_tokens=12)
SAMPLED = SamplingParams(max_tokens=12, temperature=1.0, top_p=0.9, seed=5)
PENALISED = SamplingParams(
    max_tokens=12, temperature=0.7, repetition_penalty=1.3, frequency_penalty=0.4, seed=6
)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"])
@pytest.mark.parametrize("chunk", [1, 3, 16, None])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_tokens_do_not_depend_on_neighbours_or_chunks(
    count: int, chunk: int | None, params: SamplingParams
) -> None:
    engine = make_engine(chunk=chunk, num_pages=128, max_rows=20)
    prompts = [some_prompt(3 + 5 * index, index) for index in range(count)]
    requests = [engine.submit(prompt, params) for prompt in prompts]
    run_all(engine)
    for prompt, request in zip(prompts, requests, strict=True):
        assert output(request) == expected_tokens(prompt, params)
        assert request.finish_reason == "length"


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_tokens_do_not_depend_on_order_or_on_when_neighbours_come(order: Sequence[int]) -> None:
    engine = make_engine(chunk=3, max_rows=8)
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
    engine = make_engine(num_pages=num_pages, chunk=16)
    long = replace(params, max_tokens=40)
    prompts = [some_prompt(6 + index, index) for index in range(8)]
    requests = [engine.submit(prompt, long) for prompt in prompts]
    run_all(engine)
    assert engine.scheduler.preemptions > 0
    for prompt, request in zip(prompts, requests, strict=True):
        assert output(request) == expected_tokens(prompt, long)
    assert engine.scheduler.pool.free == num_pages


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
    engine = make_engine(chunk=3, max_sequences=1)
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


# --- containment ---------------------------------------------------------------------------------


def marked(batch: Batch, marker: int) -> list[int]:
    """The outputs of sequences that have the marker token in this step."""
    hit = set(batch.sequence_of_row[batch.token_ids == marker].tolist())
    return [index for index, row in enumerate(batch.logits_rows) if batch.sequence_of_row[row] in hit]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_end_one_request_only(bad: float) -> None:
    def hook(batch: Batch, logits: Float32) -> None:
        logits[marked(batch, 96), 7] = bad

    engine = make_engine(hook=hook)
    prompts = [[index, 1, 2] for index in range(7)]
    neighbours = [engine.submit(prompt, GREEDY) for prompt in prompts]
    poisoned = engine.submit([5, 96], GREEDY)
    run_all(engine)
    assert poisoned.finish_reason == "error"
    assert isinstance(poisoned.error, NumericError)
    for prompt, request in zip(prompts, neighbours, strict=True):
        expected = expected_tokens(prompt, GREEDY)
        if 96 not in expected:
            assert (request.finish_reason, output(request)) == ("length", expected)
    assert engine.scheduler.pool.free == 64


def test_an_exception_in_a_listener_or_a_sampler_ends_one_request_only() -> None:
    engine = make_engine()

    def listener(sampled: Sampled) -> bool:
        raise RuntimeError("text broke")

    neighbours = [engine.submit([index], GREEDY) for index in range(3)]
    text = engine.submit([50], GREEDY, listener=listener)
    broken = engine.submit([51], GREEDY)
    neighbours += [engine.submit([index], GREEDY) for index in range(3, 6)]
    broken.sampler = None  # type: ignore[assignment]
    run_all(engine)
    assert (text.finish_reason, str(text.error)) == ("error", "text broke")
    assert (broken.finish_reason, type(broken.error)) == ("error", AttributeError)
    for index, request in enumerate(neighbours):
        assert output(request) == expected_tokens([index], GREEDY)
    assert engine.scheduler.pool.free == 64


def test_an_exception_in_the_runner_ends_the_requests_of_that_step_and_no_others() -> None:
    broken = [False]

    def hook(batch: Batch, logits: Float32) -> None:
        if broken[0]:
            raise RuntimeError("the runner broke")

    engine = make_engine(hook=hook, max_sequences=2)
    first, second, third = (engine.submit([index], GREEDY) for index in range(3))
    engine.step()
    broken[0] = True
    assert engine.step()
    broken[0] = False
    assert [str(request.error) for request in (first, second)] == ["the runner broke"] * 2
    assert third.state == "waiting"
    run_all(engine)
    assert output(third) == expected_tokens([2], GREEDY)
    assert engine.scheduler.pool.free == 64


def test_a_broken_book_ends_all_requests_and_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(max_sequences=2)
    session = engine.session()
    requests = [engine.submit([index], GREEDY, session=session if index == 0 else None) for index in range(3)]
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine.scheduler, "schedule", lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    assert [request.finish_reason for request in requests] == ["error"] * 3
    assert engine.scheduler.pool.free == 64
    request = engine.submit([4], GREEDY, session=session)
    run_all(engine)
    assert output(request) == expected_tokens([4], GREEDY)


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 30])
def test_abort_in_any_state_once_or_twice(steps: int) -> None:
    engine = make_engine(chunk=3)
    other = engine.submit([9], GREEDY)
    request = engine.submit(some_prompt(11, 3), GREEDY)
    for _ in range(steps):
        engine.step()
    engine.abort(request)
    engine.abort(request)
    assert request.finish_reason == ("length" if steps == 30 else "aborted")
    run_all(engine)
    assert output(other) == expected_tokens([9], GREEDY)
    assert engine.scheduler.pool.free == 64


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
    assert engine.scheduler.pool.free == 40


# --- sessions ------------------------------------------------------------------------------------


def test_a_session_computes_only_what_is_new() -> None:
    engine = make_engine(max_rows=64)
    runner, session = engine.runner, engine.session()
    assert isinstance(runner, ToyRunner)
    tokens = some_prompt(10, 1)
    for turn in range(3):
        runner.rows.clear()
        request = engine.submit(tokens, GREEDY, session=session)
        run_all(engine)
        assert output(request) == expected_tokens(tokens, GREEDY)
        # The last token of an answer was sampled but never computed.
        assert request.reused == (0 if turn == 0 else len(tokens) - 4)
        assert runner.rows[0] == len(tokens) - request.reused
        assert engine.scheduler.pool.used == -(-(len(tokens) + 11) // 4)
        tokens = [*request.tokens, 1, 2, 3]
    engine.close_session(session)
    assert engine.scheduler.pool.used == 0


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 5, 12, 20, 21])
def test_a_session_follows_a_prompt_that_was_edited(kept: int) -> None:
    engine, session = make_engine(), None
    session = engine.session()
    first = engine.submit(some_prompt(10, 1), GREEDY, session=session)
    run_all(engine)
    edited = [*first.tokens[:kept], (first.tokens[kept] + 1) % 97, 5, 6]
    second = engine.submit(edited, SAMPLED, session=session)
    run_all(engine)
    assert second.reused == min(kept, 21)
    assert output(second) == expected_tokens(edited, SAMPLED)


def test_the_same_prompt_again_computes_only_its_last_token() -> None:
    engine, prompt = make_engine(), some_prompt(9, 2)
    session = engine.session()
    for reused in (0, 8):
        request = engine.submit(prompt, SAMPLED, session=session)
        run_all(engine)
        assert (request.reused, output(request)) == (reused, expected_tokens(prompt, SAMPLED))


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_an_aborted_request_leaves_only_what_was_computed(steps: int) -> None:
    engine, prompt = make_engine(chunk=3), some_prompt(11, 4)
    session = engine.session()
    request = engine.submit(prompt, GREEDY, session=session)
    for _ in range(steps):
        engine.step()
    engine.abort(request)
    assert len(session.tokens) == (min(3 * steps, 11) if steps < 5 else 11 + steps - 4)
    again = engine.submit(prompt, GREEDY, session=session)
    run_all(engine)
    assert output(again) == expected_tokens(prompt, GREEDY)


def test_idle_sessions_give_way_before_anybody_is_preempted() -> None:
    engine = make_engine(num_pages=16)
    sessions = [engine.session() for _ in range(3)]
    for index, session in enumerate(sessions):
        engine.submit(some_prompt(8, index), GREEDY, session=session)
        run_all(engine)
    prompt = some_prompt(40, 9)
    request = engine.submit(prompt, GREEDY)
    run_all(engine)
    assert output(request) == expected_tokens(prompt, GREEDY)
    assert engine.scheduler.preemptions == 0
    assert [bool(session.tokens) for session in sessions] == [False, False, False]
    again = engine.submit(some_prompt(8, 1), GREEDY, session=sessions[1])
    run_all(engine)
    assert (again.reused, output(again)) == (0, expected_tokens(some_prompt(8, 1), GREEDY))


def test_the_session_that_was_used_last_is_kept_longest() -> None:
    engine = make_engine(num_pages=17)
    sessions = [engine.session() for _ in range(3)]
    for index, session in enumerate(sessions):
        engine.submit(some_prompt(8, index), GREEDY, session=session)
        run_all(engine)
    engine.submit(some_prompt(9, 7), SamplingParams(max_tokens=2))
    run_all(engine)
    assert [bool(session.tokens) for session in sessions] == [False, True, True]


def test_a_request_that_failed_leaves_nothing_in_its_session() -> None:
    def hook(batch: Batch, logits: Float32) -> None:
        logits[marked(batch, 96)] = np.nan

    engine = make_engine(hook=hook)
    session = engine.session()
    request = engine.submit([1, 96], GREEDY, session=session)
    run_all(engine)
    assert (request.finish_reason, session.tokens, engine.scheduler.pool.used) == ("error", [], 0)


def test_a_session_whose_request_was_preempted_and_aborted_starts_afresh() -> None:
    engine = make_engine(num_pages=6, context=24)
    session, params = engine.session(), SamplingParams(max_tokens=2)
    first = engine.submit(some_prompt(6, 1), params, session=session)
    run_all(engine)
    older = engine.submit(some_prompt(8, 2), SamplingParams(max_tokens=16))
    engine.step()
    second = engine.submit([*first.tokens, 1], GREEDY, session=session)
    while second.state == "waiting":
        engine.step()
    assert second.reused > 0
    while second.state == "running":
        engine.step()
    assert (second.state, second.computed) == ("waiting", 0)
    engine.abort(second)
    third = engine.submit([*first.tokens, 1], params, session=session)
    run_all(engine)
    assert output(third) == expected_tokens([*first.tokens, 1], params)
    assert output(older) == expected_tokens(some_prompt(8, 2), SamplingParams(max_tokens=16))


def test_a_session_that_was_interrupted_before_its_first_step_knows_that_it_is_empty() -> None:
    strike = [False]

    def hook(batch: Batch, logits: Float32) -> None:
        if strike[0]:
            raise KeyboardInterrupt

    engine = make_engine(hook=hook)
    session, prompt = engine.session(), some_prompt(9, 1)
    engine.submit(prompt, GREEDY, session=session)
    run_all(engine)
    strike[0] = True
    other = engine.submit([(prompt[0] + 1) % 97, 2, 3], GREEDY, session=session)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    engine.abort(other)
    strike[0] = False
    again = engine.submit(prompt, SAMPLED, session=session)
    run_all(engine)
    assert output(again) == expected_tokens(prompt, SAMPLED)


def test_a_session_serves_one_request_at_a_time() -> None:
    engine = make_engine()
    session = engine.session()
    request = engine.submit([1], GREEDY, session=session)
    with pytest.raises(UsageError, match="in use"):
        engine.submit([2], GREEDY, session=session)
    engine.close_session(session)
    run_all(engine)
    assert output(request) == expected_tokens([1], GREEDY)
    assert engine.scheduler.pool.used == 0


# --- Ctrl-C --------------------------------------------------------------------------------------


def test_an_interrupt_in_the_runner_leaves_the_step_undone() -> None:
    strike = [False]

    def hook(batch: Batch, logits: Float32) -> None:
        if strike[0]:
            strike[0] = False
            raise KeyboardInterrupt

    engine = make_engine(hook=hook)
    requests = [engine.submit([index], SAMPLED) for index in range(3)]
    for _ in range(3):
        engine.step()
        strike[0] = True
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    run_all(engine)
    assert [output(request) for request in requests] == [
        expected_tokens([index], SAMPLED) for index in range(3)
    ]


def test_an_interrupt_at_any_line_leaves_the_engine_usable() -> None:
    """Ctrl-C can strike between any two lines of the engine; try them all."""
    strikes = 0
    for line in range(10_000):
        if not interrupted_at(line):
            break
        strikes += 1
    assert strikes > 300


def interrupted_at(line: int) -> bool:
    """Interrupts a small run before its n-th line of engine code; False if it has fewer lines."""
    engine = make_engine(num_pages=16, context=24, max_sequences=2, chunk=4, max_rows=8)
    session = engine.session()
    kept = engine.submit([1, 2, 3, 4, 5], SamplingParams(max_tokens=2), session=session)
    run_all(engine)
    folder = engine_module.__file__.rpartition("engine.py")[0]
    countdown = [line]

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(folder):
            return None
        if event == "line":
            countdown[0] -= 1
            if countdown[0] < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    requests: list[Request] = []
    params = SamplingParams(max_tokens=3)
    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        requests.append(engine.submit([*kept.tokens, 6], params, session=session))
        requests.extend(engine.submit([index], params) for index in (1, 2))
        run_all(engine)
    except KeyboardInterrupt:
        pass
    else:
        return False
    finally:
        sys.settrace(previous)
    for request in requests:
        engine.abort(request)
    run_all(engine)
    assert all(request.finished for request in requests)
    assert engine.scheduler.pool.used == len(session.table)
    if session.request is not None:
        engine.abort(session.request)
    again = engine.submit([*kept.tokens, 6], params, session=session)
    run_all(engine)
    assert output(again) == expected_tokens([*kept.tokens, 6], params)
    engine.close_session(session)
    pool = engine.scheduler.pool
    assert (pool.free, pool.used) == (16, 0)
    return True


def test_the_engine_lets_go_of_a_request_that_ended() -> None:
    engine = make_engine()
    request = engine.submit([1], GREEDY, session=engine.session())
    run_all(engine)
    ended = weakref.ref(request)
    del request
    gc.collect()
    assert ended() is None
