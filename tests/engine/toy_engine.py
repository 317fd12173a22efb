"""Engines on the toy runner, and requests to give them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from boli.engine.batch import Batch
from boli.engine.draft import Acceptance, Drafter, StepCosts
from boli.engine.engine import Engine
from boli.engine.request import Request
from boli.engine.sampling import SamplingParams
from boli.engine.speculation import Speculation
from engine.toy_runner import ToyRunner

CONTEXT = 64


def make_engine(
    *,
    max_sequences: int = 8,
    context: int = CONTEXT,
    prefill_budget: int = 16,
    depth: int | None = None,
    **runner: Any,
) -> Engine:
    """An engine; with a depth it always guesses that many tokens, if it can."""
    return Engine(
        ToyRunner(**runner),
        context=context,
        max_sequences=max_sequences,
        prefill_budget=prefill_budget,
        speculation=bold(depth),
    )


def bold(depth: int | None) -> Speculation | None:
    """Speculation that always guesses so many tokens, whether that pays or not."""
    return None if depth is None else Speculation(acceptance=partial(Bold, depth))


class Bold(Acceptance):
    """Guesses always the same number of tokens."""

    def __init__(self, guesses: int) -> None:
        super().__init__()
        self._guesses = guesses

    def depth(self, costs: StepCosts, rows: int, most: int, tokens: float = 1.0) -> int:
        return max(0, min(self._guesses, most))


class Prophet(Drafter):
    """Knows the answer, and gets every so many tokens of it wrong."""

    def __init__(self, answer: Sequence[int], every: int) -> None:
        super().__init__()
        self._answer = list(answer)
        self._every = every
        self._said = 0

    def extend(self, tokens: Sequence[int]) -> None:
        self._said += len(tokens)

    def propose(self, most: int) -> list[int]:
        return [
            token if (position + 1) % self._every else abs(token - 1)
            for position, token in enumerate(self._answer[self._said : self._said + most], self._said)
        ]


def foretell(request: Request, answer: Sequence[int], every: int) -> None:
    """Lets a prophet guess for a request of an engine that guesses."""
    assert request.guesses is not None
    request.guesses.drafter = Prophet(answer, every)


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


def marked(batch: Batch, marker: int) -> list[int]:
    """The outputs of sequences that have the marker token in this step."""
    hit = set(batch.sequence_of_row[batch.token_ids == marker].tolist())
    return [index for index, row in enumerate(batch.logits_rows) if batch.sequence_of_row[row] in hit]
