"""Embeddings beside requests: the same vectors whatever else runs, and every page given back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from boli.engine.batch import Batch, Float32
from boli.engine.engine import Engine
from boli.engine.pooling import Embedding, Pooler, Pooling, unit
from boli.errors import ContextLengthExceeded, NumericError, PromptError, UsageError
from engine.toy_engine import CONTEXT, GREEDY, output, run_all, some_prompt
from engine.toy_runner import ToyRunner, entry, expected_tokens, logits_of

WIDTH = 8
LENGTHS = [1, 3, 4, 5, 17, 40, 63]
PROMPTS = [some_prompt(length, seed) for seed, length in enumerate(LENGTHS)]


class PoolingToy(ToyRunner):
    """A toy that can fail where embeddings are computed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.failing: Exception | None = None
        self.infinite: int | None = None  # the token whose state is no number
        self.hidden_rows: list[int] = []

    def hidden(self, batch: Batch) -> Float32:
        self.hidden_rows.append(len(batch.token_ids))
        states = super().hidden(batch)
        if self.failing is not None:
            raise self.failing
        states[batch.token_ids[batch.logits_rows] == self.infinite] = np.inf
        return states


def expected_states(tokens: Sequence[int]) -> npt.NDArray[np.float64]:
    ids = np.asarray(tokens, np.int32)
    held = entry(ids, np.arange(len(ids), dtype=np.int32))
    return np.array([logits_of(held[: n + 1], WIDTH) for n in range(len(ids))], np.float64)


def expected(tokens: Sequence[int], pooling: Pooling = "mean") -> Float32:
    states = expected_states(tokens)
    pooled: npt.NDArray[np.float64] = {"mean": states.mean(0), "last": states[-1], "first": states[0]}[
        pooling
    ]
    return pooled.astype(np.float32)


def make(**settings: Any) -> tuple[Engine, Pooler, PoolingToy]:
    runner = PoolingToy(**settings)
    engine = Engine(runner, context=CONTEXT, max_sequences=8, prefill_budget=16)
    return engine, Pooler(engine), runner


def assert_all_pages_are_back(engine: Engine) -> None:
    pool = engine.scheduler.pool
    assert (pool.used, pool.free + pool.cached) == (0, pool.num_pages)


@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
@pytest.mark.parametrize("max_rows", [5, 8, 32, 512])
def test_vectors_are_the_pooled_states_however_texts_are_cut(pooling: Pooling, max_rows: int) -> None:
    engine, pooler, runner = make(max_rows=max_rows)
    vectors = pooler.run([pooler.submit(tokens, pooling) for tokens in PROMPTS])
    for tokens, vector in zip(PROMPTS, vectors, strict=True):
        np.testing.assert_allclose(vector, expected(tokens, pooling), rtol=1e-6, atol=1e-6)
    assert max(runner.hidden_rows) <= max_rows
    assert_all_pages_are_back(engine)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_alone_and_in_company_are_equal_to_the_bit(pooling: Pooling) -> None:
    _, alone, _ = make(max_rows=512)
    _, together, _ = make(max_rows=7, num_pages=24)
    vectors = together.run([together.submit(tokens, pooling) for tokens in PROMPTS])
    for tokens, vector in zip(PROMPTS, vectors, strict=True):
        (single,) = alone.run([alone.submit(tokens, pooling)])
        assert single.tobytes() == vector.tobytes()


def test_short_texts_share_a_step() -> None:
    _, pooler, runner = make(max_rows=32)
    pooler.run([pooler.submit(some_prompt(4, seed)) for seed in range(8)])
    assert runner.hidden_rows == [32]


def test_only_what_is_needed_is_computed() -> None:
    _, pooler, runner = make(max_rows=32)
    embedding = pooler.submit(PROMPTS[-1], "first")
    pooler.run([embedding])
    assert (runner.hidden_rows, embedding.prompt_tokens) == ([1], LENGTHS[-1])


def test_requests_and_embeddings_do_not_disturb_each_other() -> None:
    engine, pooler, runner = make(max_rows=32, num_pages=40)
    requests = [engine.submit(tokens, GREEDY) for tokens in PROMPTS[:4]]
    embeddings = [pooler.submit(tokens) for tokens in PROMPTS]
    for _ in range(400):
        if not (pooler.step() | engine.step()):
            break
    for request, tokens in zip(requests, PROMPTS, strict=False):
        assert output(request) == expected_tokens(tokens, GREEDY)
    for embedding, tokens in zip(embeddings, PROMPTS, strict=True):
        assert embedding.vector is not None
        np.testing.assert_allclose(embedding.vector, expected(tokens), rtol=1e-6, atol=1e-6)
    assert_all_pages_are_back(engine)
    # Beside answers a step takes no more rows of texts than of prompts.
    assert 16 in runner.hidden_rows


def test_a_text_waits_for_pages_and_gets_them() -> None:
    engine, pooler, _ = make(num_pages=CONTEXT // 4)
    requests = [engine.submit(some_prompt(50, seed), GREEDY) for seed in (1, 2)]
    engine.step()
    embedding = pooler.submit(PROMPTS[-1])
    assert not pooler.step()
    assert pooler.busy
    (vector,) = pooler.run([embedding])
    np.testing.assert_allclose(vector, expected(PROMPTS[-1]), rtol=1e-6, atol=1e-6)
    run_all(engine)
    for seed, request in zip((1, 2), requests, strict=True):
        assert output(request) == expected_tokens(some_prompt(50, seed), GREEDY)
    assert_all_pages_are_back(engine)


def test_a_request_waits_for_pages_that_a_text_has() -> None:
    engine, pooler, _ = make(num_pages=CONTEXT // 4, max_rows=8)
    embedding = pooler.submit(PROMPTS[-1])
    assert pooler.step()
    request = engine.submit(some_prompt(40, 9), GREEDY)
    assert not engine.step()
    pooler.run([embedding])
    run_all(engine)
    assert output(request) == expected_tokens(some_prompt(40, 9), GREEDY)


def test_a_request_that_is_short_of_pages_is_not_starved_by_texts() -> None:
    """Texts come without end; what one gives back is offered to the request before the next one begins."""
    engine, pooler, _ = make(num_pages=CONTEXT // 4, max_rows=8)
    texts = [pooler.submit(some_prompt(length, length)) for length in (12, 8, 8)]
    pooler.step()
    # By rows alone there is always a text half done: their ends never meet that of a chunk of 8 rows.
    request = engine.submit(some_prompt(CONTEXT - 2, 9), GREEDY)
    for seed in range(60):
        texts.append(pooler.submit(some_prompt(8, seed)))
        engine.step()
        pooler.step()
        if request.state != "waiting":
            break
    else:
        raise AssertionError("it never began")
    assert request.waits.seconds.keys() == {"queue", "pages"}
    assert any(each.waits.reason == "rows" or "rows" in each.waits.seconds for each in texts)
    run_all(engine)
    pooler.run(texts)
    assert_all_pages_are_back(engine)


def test_a_text_says_why_it_waited() -> None:
    engine, pooler, _ = make(num_pages=CONTEXT // 4, max_rows=8)
    request = engine.submit(some_prompt(50, 1), GREEDY)
    engine.step()
    embedding = pooler.submit(some_prompt(40, 2))
    assert embedding.waits.reason == "queue"
    assert not pooler.step()
    assert (embedding.waits.reason, embedding.waits.pages_short) == ("pages", 7)
    run_all(engine)
    pooler.run([embedding])
    assert request.finished
    assert embedding.started
    assert embedding.waits.reason is None


def test_a_failing_step_ends_its_texts_only() -> None:
    engine, pooler, runner = make(max_rows=8)
    first, second = pooler.submit(PROMPTS[5]), pooler.submit(PROMPTS[4])
    runner.failing = RuntimeError("no")
    assert pooler.step()
    assert first.error is runner.failing
    assert second.error is None
    runner.failing = None
    (vector,) = pooler.run([second])
    np.testing.assert_allclose(vector, expected(PROMPTS[4]), rtol=1e-6, atol=1e-6)
    assert_all_pages_are_back(engine)


def test_a_vector_that_is_no_vector_is_an_error_of_its_text() -> None:
    engine, pooler, runner = make(max_rows=32)
    runner.infinite = 96
    bad, good = pooler.submit([1, 96, 2]), pooler.submit([1, 2, 3])
    with pytest.raises(NumericError):
        pooler.run([bad, good])
    assert good.vector is not None
    assert_all_pages_are_back(engine)


def test_cancelled_texts_give_their_pages_back() -> None:
    engine, pooler, _ = make(max_rows=8, num_pages=CONTEXT // 4)
    ended: list[Embedding] = []
    running, waiting = (pooler.submit(PROMPTS[-1], on_end=ended.append) for _ in range(2))
    assert pooler.step()
    for embedding in (running, waiting, running):
        pooler.cancel(embedding)
    assert not pooler.busy
    assert ended == []
    assert_all_pages_are_back(engine)


def test_on_end_is_told_once() -> None:
    _, pooler, _ = make()
    ended: list[Embedding] = []
    embedding = pooler.submit(PROMPTS[2], on_end=ended.append)
    pooler.run([embedding])
    assert ended == [embedding]


def test_a_closed_engine_ends_all_texts() -> None:
    engine, pooler, _ = make(max_rows=8)
    embeddings = [pooler.submit(PROMPTS[-1]) for _ in range(2)]
    pooler.step()
    engine.close()
    assert not pooler.step()
    assert all(isinstance(each.error, UsageError) for each in embeddings)
    with pytest.raises(UsageError, match="closed"):
        pooler.submit(PROMPTS[0])


def test_pages_lost_in_a_reset_are_not_given_back_twice() -> None:
    engine, pooler, _ = make(max_rows=8)
    embedding = pooler.submit(PROMPTS[-1])
    pooler.step()
    engine._reset(None)
    assert not pooler.step()
    assert isinstance(embedding.error, UsageError)
    assert engine.scheduler.pool.free == engine.scheduler.pool.num_pages


def test_what_an_engine_refuses_is_refused() -> None:
    _, pooler, _ = make()
    with pytest.raises(PromptError):
        pooler.submit([])
    with pytest.raises(PromptError):
        pooler.submit([97])
    with pytest.raises(ContextLengthExceeded):
        pooler.submit([1] * CONTEXT)
    assert not pooler.busy


def test_unit_vectors() -> None:
    vector = np.array([3, 4, 12], np.float32)
    np.testing.assert_allclose(unit(vector), vector / 13, rtol=1e-7)
    np.testing.assert_allclose(unit(vector, 2), [0.6, 0.8], rtol=1e-7)
    assert unit(np.zeros(3, np.float32)).tolist() == [0, 0, 0]
    assert np.isfinite(unit(np.full(4, 1e30, np.float32))).all()
