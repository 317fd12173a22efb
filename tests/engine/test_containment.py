"""What goes wrong in one request, in the runner or at the keyboard harms nobody else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import numpy as np
import pytest

from boli.engine import engine as engine_module
from boli.engine.batch import Batch, Float32
from boli.engine.pages import PageTable
from boli.engine.request import Request
from boli.engine.sampling import Sampled, SamplingParams
from boli.errors import NumericError
from engine.toy_engine import (
    GREEDY,
    SAMPLED,
    foretell,
    make_engine,
    marked,
    output,
    run_all,
)
from engine.toy_runner import expected_tokens


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
    assert engine.scheduler.pool.used == 0


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
    assert engine.scheduler.pool.used == 0


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
    assert engine.scheduler.pool.used == 0


def test_a_request_that_the_runner_cannot_compute_ends_alone() -> None:
    def hook(batch: Batch, logits: Float32) -> None:
        if 96 in batch.token_ids:
            raise RuntimeError("not this one")

    engine = make_engine(hook=hook)
    prompts = [[index, 1, 2] for index in range(7)]
    neighbours = [engine.submit(prompt, GREEDY) for prompt in prompts]
    bad = engine.submit([5, 96], GREEDY)
    run_all(engine)
    assert (bad.finish_reason, str(bad.error)) == ("error", "not this one")
    for prompt, request in zip(prompts, neighbours, strict=True):
        expected = expected_tokens(prompt, GREEDY)
        if 96 not in expected:
            assert (request.finish_reason, output(request)) == ("length", expected)
    assert engine.scheduler.pool.used == 0


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_a_request_that_breaks_the_books_ends_alone_and_the_others_start_again(
    monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    engine = make_engine(max_sequences=3)
    neighbours = [engine.submit([index, 1], GREEDY) for index in range(4)]
    for _ in range(steps):
        engine.step()
    bad = engine.submit([50], GREEDY, salt=b"bad")
    neighbours += [engine.submit([index, 1], GREEDY) for index in range(4, 6)]
    original = engine.scheduler.tree.adopt

    def adopt(table: PageTable, tokens: Sequence[int], salt: object) -> int:
        if salt == b"bad":
            raise RuntimeError("the tree broke")
        return original(table, tokens, salt)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.scheduler.tree, "adopt", adopt)
    run_all(engine)
    assert (bad.finish_reason, str(bad.error)) == ("error", "the tree broke")
    for index, request in enumerate(neighbours):
        assert output(request) == expected_tokens([index, 1], GREEDY)
    assert engine.scheduler.pool.used == 0


def test_a_broken_book_ends_all_requests_and_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(max_sequences=2)
    requests = [engine.submit([index], GREEDY) for index in range(3)]
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine.scheduler, "schedule", lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    assert [request.finish_reason for request in requests] == ["error"] * 3
    assert engine.scheduler.pool.free == 64
    request = engine.submit([4], GREEDY)
    run_all(engine)
    assert output(request) == expected_tokens([4], GREEDY)


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
    assert strikes > 1000


def interrupted_at(line: int) -> bool:
    """Interrupts a small run before its n-th line of engine code; False if it has fewer lines."""
    engine = make_engine(num_pages=16, context=24, max_sequences=2, prefill_budget=4, max_rows=8, depth=2)
    prompt = [1, 2, 3, 4, 5]
    kept = engine.submit(prompt, SamplingParams(max_tokens=4))
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
    answer = expected_tokens([*kept.tokens, 6], params)
    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        requests.append(engine.submit([*kept.tokens, 6], params))
        foretell(requests[0], answer, every=3)
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
    pool = engine.scheduler.pool
    assert (pool.used, pool.free + pool.cached) == (0, 16)
    again = engine.submit([*kept.tokens, 6], params)
    run_all(engine)
    assert output(again) == answer
    return True
