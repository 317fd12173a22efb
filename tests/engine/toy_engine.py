"""Engines on the toy runner, and requests to give them."""

from __future__ import annotations

import random
from typing import Any

from boli.engine.batch import Batch
from boli.engine.engine import Engine
from boli.engine.request import Request
from boli.engine.sampling import SamplingParams
from engine.toy_runner import ToyRunner

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


def marked(batch: Batch, marker: int) -> list[int]:
    """The outputs of sequences that have the marker token in this step."""
    hit = set(batch.sequence_of_row[batch.token_ids == marker].tolist())
    return [index for index, row in enumerate(batch.logits_rows) if batch.sequence_of_row[row] in hit]
