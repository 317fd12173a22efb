"""Drives a runner by hand and looks at the clock: no engine, no text, no requests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from boli.engine.batch import Batch, Float32, Int32, Runner
from boli.engine.sampling import Sampler, SamplingParams

_SEED = 20  # of the tokens that are fed; which they are does not change how long they take


@dataclass(frozen=True, slots=True)
class Decoded:
    """How long it took to decode.

    Attributes:
        step_seconds: Of all steps together.
        sampling_seconds: To choose the tokens, greedily; not in `step_seconds`.
        logits: Of the last step and the first sequence, float32 `[vocab_size]`.
    """

    step_seconds: float
    sampling_seconds: float
    logits: Float32


class Driver:
    """Feeds one runner.

    Args:
        runner: Has the pages, and serves no one else.
        sequences: How many sequences there are.
        positions: How many positions each may have.
    """

    def __init__(self, runner: Runner, *, sequences: int, positions: int) -> None:
        self._runner, self._sequences = runner, sequences
        pages = pages_for(positions, runner.page_size)
        # As an engine hands them out: of sequences that grow together, each owns every n-th page.
        numbers = np.arange(sequences * pages, dtype=np.int32)
        self._tables = np.ascontiguousarray(numbers.reshape(pages, sequences).T)
        vocabulary = runner.blueprint.config.vocab_size
        self._ids = np.random.default_rng(_SEED).integers(0, vocabulary, positions).astype(np.int32)

    def prefill(self, count: int, *, sequence: int = 0) -> float:
        """Feeds the first `count` positions of a sequence, as many a step as the runner takes.

        Returns:
            Seconds until the logits of the last one are there.
        """
        start = time.perf_counter()
        for first in range(0, count, self._runner.max_rows):
            end = min(first + self._runner.max_rows, count)
            wanted = np.asarray([end - first - 1] if end == count else [], np.int32)
            self._runner.forward(self._piece(self._ids, first, end, sequence, wanted))
        return time.perf_counter() - start

    def decode(self, steps: int, *, depth: int) -> Decoded:
        """Decodes `steps` tokens of every sequence, all sequences in one step.

        The positions before `depth` must have been fed; what comes behind them is overwritten.
        """
        samplers = [Sampler(SamplingParams()) for _ in range(self._sequences)]
        tokens = np.full(self._sequences, self._ids[depth], np.int32)
        everyone = np.arange(self._sequences, dtype=np.int32)
        forward = sampling = 0.0
        for step in range(steps):
            start = time.perf_counter()
            positions = np.full(self._sequences, depth + step, np.int32)
            logits = self._runner.forward(Batch(tokens, positions, everyone, self._tables, everyone))
            middle = time.perf_counter()
            likeliest = self._runner.likeliest.tolist()
            for sequence, sampler in enumerate(samplers):
                tokens[sequence] = sampler.sample(logits[sequence], step, likeliest[sequence]).id
            forward += middle - start
            sampling += time.perf_counter() - middle
        return Decoded(forward, sampling, logits[0].copy())

    def logits(self, ids: Int32, rows: int) -> Iterator[Float32]:
        """Logits after each token of a text, float32 `[vocab_size]`, valid until the next one.

        Args:
            ids: The text.
            rows: How many to compute in a step.
        """
        for first in range(0, len(ids), rows):
            end = min(first + rows, len(ids))
            wanted = np.arange(end - first, dtype=np.int32)
            yield from self._runner.forward(self._piece(ids, first, end, 0, wanted))

    def _piece(self, ids: Int32, first: int, end: int, sequence: int, wanted: Int32) -> Batch:
        """Positions `first … end - 1` of one sequence."""
        return Batch(
            token_ids=ids[first:end],
            positions=np.arange(first, end, dtype=np.int32),
            sequence_of_row=np.zeros(end - first, np.int32),
            page_tables=self._tables[sequence : sequence + 1],
            logits_rows=wanted,
        )


def pages_for(positions: int, page_size: int) -> int:
    """Pages that hold so many positions of one sequence."""
    return -(-positions // page_size)
