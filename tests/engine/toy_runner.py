"""A runner small enough to be believed: exact arithmetic, paged memory, logits that depend on everything.

Each position of the cache holds a number made of its token and its position. A row's logits are a
hash of the sum of all numbers of its sequence up to its own position, weighted by position. All of it
is integer arithmetic, so a wrong page, a wrong position, a forgotten or a repeated token gives other
logits, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from boli.blueprint.config import Config
from boli.blueprint.weights import Blueprint
from boli.cpu.oracle import likeliest
from boli.engine.batch import Batch, Float32
from boli.engine.sampling import Sampler, SamplingParams

PRIME = 2**31 - 1
Int64 = npt.NDArray[np.int64]
Hook = Callable[[Batch, Float32], None]


def toy_config(vocab_size: int = 97, positions: int = 4096) -> Config:
    return Config(
        family="toy",
        vocab_size=vocab_size,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=positions,
    )


class ToyRunner:
    """Implements `boli.engine.batch.Runner` and checks what the protocol promises to a runner."""

    def __init__(
        self,
        *,
        vocab_size: int = 97,
        page_size: int = 4,
        num_pages: int = 64,
        max_rows: int = 32,
        hook: Hook | None = None,
    ) -> None:
        self.blueprint = Blueprint(toy_config(vocab_size), ())
        self.page_size = page_size
        self.num_pages = num_pages
        self.max_rows = max_rows
        self.hook = hook
        self.closed = False
        self.rows: list[int] = []  # of each step
        self.likeliest = np.empty(0, np.int64)
        garbage = np.random.default_rng(5).integers(0, PRIME, num_pages * page_size)
        self._cache: Int64 = garbage.reshape(num_pages, page_size).astype(np.int64)

    def forward(self, batch: Batch) -> Float32:
        logits = self._run(batch, self.blueprint.config.vocab_size)
        if self.hook is not None:
            self.hook(batch, logits)
        self.likeliest = likeliest(logits)
        return logits

    def hidden(self, batch: Batch) -> Float32:
        return self._run(batch, self.blueprint.config.hidden_size)

    def _run(self, batch: Batch, width: int) -> Float32:
        check_batch(batch, self)
        self.rows.append(len(batch.token_ids))
        pages = batch.page_tables[batch.sequence_of_row, batch.positions // self.page_size]
        self._cache[pages, batch.positions % self.page_size] = entry(batch.token_ids, batch.positions)
        outputs = np.empty((len(batch.logits_rows), width), np.float32)
        for index, row in enumerate(batch.logits_rows):
            past = np.arange(batch.positions[row] + 1)
            table = batch.page_tables[batch.sequence_of_row[row]]
            held = self._cache[table[past // self.page_size], past % self.page_size]
            outputs[index] = logits_of(held, width)
        return outputs

    def close(self) -> None:
        self.closed = True


def check_batch(batch: Batch, runner: ToyRunner) -> None:
    rows = len(batch.token_ids)
    assert 0 < rows <= runner.max_rows
    for array in (
        batch.token_ids,
        batch.positions,
        batch.sequence_of_row,
        batch.page_tables,
        batch.logits_rows,
    ):
        assert array.dtype == np.int32
    same = batch.sequence_of_row[1:] == batch.sequence_of_row[:-1]
    assert (batch.positions[1:][same] == batch.positions[:-1][same] + 1).all()
    assert (batch.sequence_of_row[1:][~same] == batch.sequence_of_row[:-1][~same] + 1).all()
    assert len(batch.page_tables) == batch.sequence_of_row[-1] + 1
    assert (np.diff(batch.logits_rows) > 0).all()
    assert batch.token_ids.min() >= 0
    assert batch.token_ids.max() < runner.blueprint.config.vocab_size


def entry(token_ids: npt.NDArray[np.int32], positions: npt.NDArray[np.int32]) -> Int64:
    """What the cache holds for a token at a position."""
    return (token_ids.astype(np.int64) * 48271 + positions.astype(np.int64) * 16807 + 11) % PRIME


def logits_of(held: Int64, vocab_size: int) -> Float32:
    """The logits after these cache entries: uniform in [-8, 8), a hash of them all."""
    weights = (np.arange(len(held), dtype=np.int64) * 7919 + 1) % PRIME
    state = np.uint64((held * weights % PRIME).sum() % PRIME)
    bits = np.arange(vocab_size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + state * np.uint64(
        2654435761
    )
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return ((bits >> np.uint64(40)).astype(np.float64) / 2.0**20 - 8.0).astype(np.float32)


def expected_logits(tokens: Sequence[int], vocab_size: int = 97) -> Float32:
    """The oracle: the logits after a whole sequence, without pages, chunks or batches."""
    ids = np.asarray(tokens, np.int32)
    return logits_of(entry(ids, np.arange(len(ids), dtype=np.int32)), vocab_size)


def expected_tokens(prompt: Sequence[int], params: SamplingParams, vocab_size: int = 97) -> list[int]:
    """The oracle's answer: one sequence, one token after the other."""
    sampler = Sampler(params, prompt)
    tokens = list(prompt)
    for position in range(params.max_tokens):
        tokens.append(sampler.sample(expected_logits(tokens, vocab_size), position).id)
    return tokens[len(prompt) :]
