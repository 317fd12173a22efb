"""Random submissions, steps and aborts, with shared beginnings, salts and guesses; the books must close."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from boli.engine.batch import Batch, Float32
from boli.engine.request import Request
from boli.engine.sampling import Sampled, SamplingParams
from engine.books import audit
from engine.toy_engine import foretell, make_engine
from engine.toy_runner import expected_tokens

CONTEXT = 40
PAGE_SIZE = 4
POISON = 23
VOCAB = 24


@dataclass
class Submitted:
    request: Request
    prompt: list[int]
    params: SamplingParams
    answer: list[int]
    stop_at: int | None
    ends: list[str]


class EngineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.all: list[Submitted] = []
        self.texts: list[list[int]] = [[]]

    @initialize(
        spare_pages=st.integers(0, 20),
        max_sequences=st.integers(1, 6),
        extra_rows=st.integers(0, 20),
        prefill_budget=st.sampled_from([1, 3, 16]),
        depth=st.sampled_from([None, 1, 3, 20]),
    )
    def start(
        self, spare_pages: int, max_sequences: int, extra_rows: int, prefill_budget: int, depth: int | None
    ) -> None:
        self.depth = depth
        self.num_pages = CONTEXT // PAGE_SIZE + spare_pages
        self.engine = make_engine(
            context=CONTEXT,
            max_sequences=max_sequences,
            prefill_budget=prefill_budget,
            depth=depth,
            vocab_size=VOCAB,
            page_size=PAGE_SIZE,
            num_pages=self.num_pages,
            max_rows=max_sequences + extra_rows,
            hook=poison,
        )

    @rule(
        known=st.integers(0, 100),
        follow=st.integers(0, CONTEXT),
        fresh=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=CONTEXT - 1),
        max_tokens=st.integers(1, 20),
        temperature=st.sampled_from([0.0, 1.0]),
        penalty=st.sampled_from([1.0, 1.5]),
        stop_at=st.none() | st.integers(0, VOCAB - 1),
        seed=st.integers(0, 2**64 - 1),
        salt=st.sampled_from([None, None, None, "a", b"b"]),
        lies=st.integers(1, 5),
    )
    def submit(
        self,
        known: int,
        follow: int,
        fresh: list[int],
        max_tokens: int,
        temperature: float,
        penalty: float,
        stop_at: int | None,
        seed: int,
        salt: str | bytes | None,
        lies: int,
    ) -> None:
        """A prompt that begins like an earlier text, or like none."""
        prompt = (self.texts[known % len(self.texts)][:follow] + fresh)[: CONTEXT - 1]
        params = SamplingParams(
            max_tokens=max_tokens, temperature=temperature, repetition_penalty=penalty, seed=seed
        )
        ends: list[str] = []

        def listener(sampled: Sampled) -> bool:
            if ends:
                raise AssertionError("a token after the end")
            return sampled.id == stop_at

        request = self.engine.submit(prompt, params, listener=listener, salt=salt)
        original = request.end

        def end(reason: object, error: Exception | None = None) -> None:
            ends.append(str(reason))
            original(reason, error)  # type: ignore[arg-type]

        request.end = end  # type: ignore[method-assign]
        answer = expected_tokens(prompt, params, VOCAB)
        if self.depth is not None:
            foretell(request, answer, lies)
        self.all.append(Submitted(request, prompt, params, answer, stop_at, ends))
        self.texts.append(prompt + answer)

    @rule(count=st.integers(1, 12))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.engine.step()
            self.books_close()

    @precondition(lambda self: self.all)
    @rule(index=st.integers(0, 100))
    def abort(self, index: int) -> None:
        self.engine.abort(self.all[index % len(self.all)].request)

    @precondition(lambda self: self.all)
    @rule(index=st.integers(0, 100), others=st.integers(0, 3))
    def abort_and_ask_again(self, index: int, others: int) -> None:
        """What was computed before the abort is found by whoever asks the same."""
        one = self.all[index % len(self.all)]
        self.engine.abort(one.request)
        for _ in range(others):
            self.submit(0, 0, one.prompt, 4, 0.0, 1.0, None, 0, None, 2)

    @invariant()
    def books_close(self) -> None:
        if hasattr(self, "engine"):
            audit(self.engine, [one.request for one in self.all])

    @invariant()
    def admission_is_fair(self) -> None:
        """Whoever came first runs first: no one waits behind a younger one."""
        states = [one.request.state for one in self.all if not one.request.finished]
        assert states == sorted(states, key=["running", "waiting"].index)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(20_000):
            if not self.engine.step():
                break
        for one in self.all:
            assert one.request.finished, "a request was left behind"
            assert len(one.ends) == 1
            self.check_answer(one)
        audit(self.engine, [one.request for one in self.all])
        pool = self.engine.scheduler.pool
        assert (pool.free + pool.cached, pool.used) == (self.num_pages, 0)
        assert len({pool.take() for _ in range(self.num_pages)}) == self.num_pages
        assert (pool.free, pool.cached, len(self.engine.scheduler.tree)) == (0, 0, 0)

    def check_answer(self, one: Submitted) -> None:
        request, answer = one.request, [sampled.id for sampled in one.request.output]
        assert answer == one.answer[: len(answer)]
        if request.finish_reason == "error":
            assert POISON in request.tokens
        elif request.finish_reason == "length":
            assert len(answer) == min(one.params.max_tokens, CONTEXT - len(one.prompt))
            assert one.stop_at not in answer
        elif request.finish_reason == "stop":
            assert answer.index(one.stop_at) == len(answer) - 1  # type: ignore[arg-type]
        else:
            assert request.finish_reason == "aborted"


def poison(batch: Batch, logits: Float32) -> None:
    """A sequence that has POISON in this step gets NaN from there on."""
    for index, row in enumerate(batch.logits_rows):
        own = batch.sequence_of_row[: row + 1] == batch.sequence_of_row[row]
        if (batch.token_ids[: row + 1][own] == POISON).any():
            logits[index] = np.nan


EngineMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, derandomize=True
)
TestEngine = EngineMachine.TestCase
