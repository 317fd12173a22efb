"""Random submissions, steps, aborts and conversations; after each the books must close."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from boli.engine.batch import Batch, Float32
from boli.engine.engine import Engine
from boli.engine.request import Request, Session
from boli.engine.sampling import Sampled, SamplingParams
from engine.toy_runner import ToyRunner, expected_tokens

CONTEXT = 40
PAGE_SIZE = 4
POISON = 23
VOCAB = 24


@dataclass
class Submitted:
    request: Request
    prompt: list[int]
    params: SamplingParams
    ends: list[str]


class EngineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.all: list[Submitted] = []
        self.sessions: list[Session] = []

    @initialize(
        spare_pages=st.integers(0, 20),
        max_sequences=st.integers(1, 6),
        extra_rows=st.integers(0, 20),
        chunk=st.sampled_from([1, 3, 16, None]),
    )
    def start(self, spare_pages: int, max_sequences: int, extra_rows: int, chunk: int | None) -> None:
        self.num_pages = CONTEXT // PAGE_SIZE + spare_pages
        runner = ToyRunner(
            vocab_size=VOCAB,
            page_size=PAGE_SIZE,
            num_pages=self.num_pages,
            max_rows=max_sequences + extra_rows,
            hook=poison,
        )
        self.engine = Engine(runner, context=CONTEXT, max_sequences=max_sequences, chunk=chunk)

    @rule(
        prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=CONTEXT - 1),
        max_tokens=st.integers(1, 20),
        temperature=st.sampled_from([0.0, 1.0]),
        penalty=st.sampled_from([1.0, 1.5]),
        stop_at=st.none() | st.integers(0, VOCAB - 1),
        seed=st.integers(0, 2**64 - 1),
        follow=st.integers(0, 30),
        turn=st.booleans(),
    )
    def submit(
        self,
        prompt: list[int],
        max_tokens: int,
        temperature: float,
        penalty: float,
        stop_at: int | None,
        seed: int,
        follow: int,
        turn: bool,
    ) -> None:
        free = [session for session in self.sessions if session.request is None]
        session = free[follow % len(free)] if turn and free else None
        if session is not None:  # the next turn of a conversation, or an edited one
            prompt = (session.tokens[:follow] + prompt)[: CONTEXT - 1]
        params = SamplingParams(
            max_tokens=max_tokens, temperature=temperature, repetition_penalty=penalty, seed=seed
        )
        ends: list[str] = []

        def listener(sampled: Sampled) -> bool:
            if ends:
                raise AssertionError("a token after the end")
            return sampled.id == stop_at

        request = self.engine.submit(prompt, params, listener=listener, session=session)
        original = request.end

        def end(reason: object, error: Exception | None = None) -> None:
            ends.append(str(reason))
            original(reason, error)  # type: ignore[arg-type]

        request.end = end  # type: ignore[method-assign]
        self.all.append(Submitted(request, prompt, params, ends))

    @rule()
    def open_session(self) -> None:
        self.sessions.append(self.engine.session())

    @precondition(lambda self: self.sessions)
    @rule(index=st.integers(0, 100))
    def close_session(self, index: int) -> None:
        self.engine.close_session(self.sessions.pop(index % len(self.sessions)))

    @rule(count=st.integers(1, 12))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.engine.step()

    @precondition(lambda self: self.all)
    @rule(index=st.integers(0, 100))
    def abort(self, index: int) -> None:
        self.engine.abort(self.all[index % len(self.all)].request)

    @invariant()
    def pages_are_conserved(self) -> None:
        if not hasattr(self, "engine"):
            return
        scheduler = self.engine.scheduler
        tables = [one.request.table for one in self.all] + [session.table for session in scheduler.idle]
        held = [page for table in tables for page in table.entries[: len(table)].tolist()]
        assert len(held) == len(set(held)), "a page has two owners"
        assert scheduler.pool.used == len(held)
        assert scheduler.pool.free + scheduler.pool.used == self.num_pages

    @invariant()
    def requests_are_in_exactly_one_place(self) -> None:
        if not hasattr(self, "engine"):
            return
        scheduler = self.engine.scheduler
        for one in self.all:
            state = one.request.state
            assert (one.request in scheduler.waiting) == (state == "waiting")
            assert (one.request in scheduler.running) == (state == "running")
            assert len(one.ends) == (1 if state == "finished" else 0)

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
        for session in self.sessions:
            self.engine.close_session(session)
        pool = self.engine.scheduler.pool
        assert (pool.free, pool.used) == (self.num_pages, 0)

    def check_answer(self, one: Submitted) -> None:
        request, answer = one.request, [sampled.id for sampled in one.request.output]
        assert answer == expected_tokens(one.prompt, one.params, VOCAB)[: len(answer)]
        if request.finish_reason == "error":
            assert POISON in request.tokens
        elif request.finish_reason == "length":
            assert len(answer) == min(one.params.max_tokens, CONTEXT - len(one.prompt))


def poison(batch: Batch, logits: Float32) -> None:
    """A step that computes the token POISON gives its sequence NaN."""
    hit = batch.sequence_of_row[batch.token_ids == POISON]
    logits[np.isin(batch.sequence_of_row[batch.logits_rows], hit)] = np.nan


EngineMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=30, deadline=None, derandomize=True
)
TestEngine = EngineMachine.TestCase
