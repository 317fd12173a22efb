"""Sessions: what a request leaves in the cache for the next, and when it must not be used."""

from __future__ import annotations

import numpy as np
import pytest

from boli.engine.batch import Batch, Float32
from boli.engine.sampling import SamplingParams
from boli.errors import UsageError
from engine.toy_engine import (
    GREEDY,
    SAMPLED,
    make_engine,
    marked,
    output,
    run_all,
    some_prompt,
)
from engine.toy_runner import ToyRunner, expected_tokens


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
