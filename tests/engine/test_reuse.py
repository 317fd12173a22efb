"""What one request computed, the next one need not: when that is, and when it must not be."""

from __future__ import annotations

import numpy as np
import pytest

from boli.engine.batch import Batch, Float32
from boli.engine.engine import Engine
from boli.engine.request import Request
from boli.engine.sampling import SamplingParams
from engine.toy_engine import GREEDY, SAMPLED, make_engine, marked, output, run_all, some_prompt
from engine.toy_runner import ToyRunner, expected_tokens


def rows_of(engine: Engine) -> list[int]:
    """The rows of the steps since the last call."""
    assert isinstance(engine.runner, ToyRunner)
    rows = engine.runner.rows[:]
    engine.runner.rows.clear()
    return rows


def ask(
    engine: Engine, prompt: list[int], params: SamplingParams = GREEDY, *, salt: str | bytes | None = None
) -> Request:
    """Runs a request to its end and checks its answer."""
    request = engine.submit(prompt, params, salt=salt)
    run_all(engine)
    assert output(request) == expected_tokens(prompt, params)
    return request


def test_a_conversation_computes_only_what_is_new() -> None:
    engine = make_engine(max_rows=64)
    tokens = some_prompt(10, 1)
    for turn in range(3):
        request = ask(engine, tokens)
        # The last token of an answer was sampled but never computed; pages have four positions.
        assert request.reused == (0 if turn == 0 else (len(tokens) - 4) // 4 * 4)
        assert rows_of(engine)[0] == len(tokens) - request.reused
        tokens = [*request.tokens, 1, 2, 3]


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 5, 12, 20, 21])
def test_a_prompt_may_part_anywhere_from_what_is_known(kept: int) -> None:
    engine = make_engine()
    first = ask(engine, some_prompt(10, 1))
    edited = [*first.tokens[:kept], (first.tokens[kept] + 1) % 97, 5, 6]
    assert ask(engine, edited, SAMPLED).reused == kept // 4 * 4


@pytest.mark.parametrize(("length", "reused"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8)])
def test_of_the_same_prompt_again_at_least_the_last_token_is_computed(length: int, reused: int) -> None:
    engine, prompt = make_engine(), some_prompt(length, 2)
    assert ask(engine, prompt, SAMPLED).reused == 0
    rows_of(engine)
    assert ask(engine, prompt, SAMPLED).reused == reused
    assert rows_of(engine)[0] == length - reused


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_an_aborted_request_leaves_only_full_pages_that_were_computed(steps: int) -> None:
    engine, prompt = make_engine(max_rows=3, max_sequences=1, page_size=4), some_prompt(11, 4)
    request = engine.submit(prompt, GREEDY)
    for _ in range(steps):
        engine.step()
    engine.abort(request)
    computed = min(3 * steps, 11) if steps < 5 else 11 + steps - 4
    pool = engine.scheduler.pool
    assert (pool.cached, pool.used) == (computed // 4, 0)
    assert ask(engine, prompt).reused == min(computed // 4 * 4, 8)


def test_identical_prompts_at_once_are_computed_once_as_far_as_steps_allow() -> None:
    engine, prompt = make_engine(max_rows=8, max_sequences=4), some_prompt(40, 5)
    requests = [engine.submit(prompt, GREEDY) for _ in range(4)]
    run_all(engine)
    assert [output(request) for request in requests] == [expected_tokens(prompt, GREEDY)] * 4
    assert [request.reused for request in requests] == [0, 36, 36, 36]
    assert engine.scheduler.pool.used == 0


def test_different_salts_share_nothing() -> None:
    engine, prompt = make_engine(), some_prompt(20, 6)
    assert ask(engine, prompt, salt="a").reused == 0
    for salt in ("b", b"bytes", ""):
        assert ask(engine, prompt, salt=salt).reused == 0
    assert ask(engine, prompt).reused == 0
    assert ask(engine, prompt, salt="a").reused == 16
    assert ask(engine, prompt).reused == 16


def test_what_is_known_gives_way_before_anybody_is_preempted() -> None:
    engine = make_engine(num_pages=16)
    for seed in range(3):
        ask(engine, some_prompt(8, seed))
    assert engine.scheduler.pool.cached == 12
    ask(engine, some_prompt(50, 9))
    assert engine.scheduler.preemptions == 0
    assert ask(engine, some_prompt(8, 1)).reused == 0


def test_what_was_used_last_is_known_longest() -> None:
    engine = make_engine(num_pages=16)
    for seed in range(3):
        ask(engine, some_prompt(9, seed), SamplingParams(max_tokens=1))
    ask(engine, some_prompt(9, 0), SamplingParams(max_tokens=1))
    ask(engine, some_prompt(48, 7), SamplingParams(max_tokens=1))
    tree, table = engine.scheduler.tree, engine.scheduler.new_table
    reused = [tree.adopt(table(), some_prompt(9, seed), None) for seed in (1, 2, 0)]
    assert reused == [0, 4, 8]


def test_a_request_that_failed_leaves_nothing() -> None:
    def hook(batch: Batch, logits: Float32) -> None:
        logits[marked(batch, 96)] = np.nan

    engine = make_engine(hook=hook, max_rows=8)
    request = engine.submit([*range(11), 96], GREEDY)
    engine.step()
    assert len(engine.scheduler.tree) == 2
    run_all(engine)
    pool = engine.scheduler.pool
    assert (request.finish_reason, pool.free, len(engine.scheduler.tree)) == ("error", 64, 0)


def test_a_preempted_request_does_not_count_its_own_pages_as_reused() -> None:
    engine = make_engine(num_pages=16, max_rows=32)
    older = engine.submit(some_prompt(20, 1), SamplingParams(max_tokens=40))
    younger = engine.submit(some_prompt(30, 2), SAMPLED)
    rows_of(engine)
    run_all(engine)
    assert engine.scheduler.preemptions > 0
    assert (older.reused, younger.reused) == (0, 0)
    assert output(older) == expected_tokens(some_prompt(20, 1), SamplingParams(max_tokens=40))
    assert output(younger) == expected_tokens(some_prompt(30, 2), SAMPLED)
