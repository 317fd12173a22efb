"""Batches to watch, for tests of the watched step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from boli.cpu.probing import Observation
from boli.cpu.runner import CpuRunner
from boli.cpu.sizes import PAGE_SIZE
from boli.engine.batch import Batch
from cpu.driving import page_tables
from tiny_models import prompt

Parts = Sequence[tuple[int, int, Sequence[int]]]


def batch_of(parts: Parts, outputs: Sequence[int] | None = None, sequences: int = 8) -> Batch:
    """Rows of `(sequence, first position, token ids)`; logits of all rows if none are named."""
    rows, tables = sum(len(ids) for _, _, ids in parts), page_tables(sequences)
    ends = {sequence: first + len(ids) for sequence, first, ids in parts}
    for sequence, table in enumerate(tables):  # what lies behind the end is never read
        table[-(-ends.get(sequence, 0) // PAGE_SIZE) :] = -1
    return Batch(
        token_ids=np.concatenate([np.asarray(ids, np.int32) for _, _, ids in parts]),
        positions=np.concatenate([np.arange(p, p + len(ids), dtype=np.int32) for _, p, ids in parts]),
        sequence_of_row=np.concatenate([np.full(len(ids), s, np.int32) for s, _, ids in parts]),
        page_tables=tables,
        logits_rows=np.arange(rows, dtype=np.int32) if outputs is None else np.asarray(outputs, np.int32),
    )


def ragged() -> list[Batch]:
    """Steps of all kinds: prefills of several lengths together, few rows, one row, and all of it mixed."""
    return [
        batch_of([(0, 0, prompt(37, 1)), (3, 0, prompt(5, 2)), (5, 0, prompt(20, 3))], [36, 41, 61]),
        batch_of([(0, 37, prompt(1, 4)), (3, 5, prompt(2, 5)), (5, 20, prompt(1, 6))]),
        batch_of([(3, 7, [9])]),
        batch_of([(0, 38, prompt(3, 7)), (3, 8, [11]), (1, 0, prompt(33, 8)), (5, 21, [12])], [0, 3, 37]),
        batch_of([(1, 33, prompt(2, 9))], []),
    ]


def watch_text(runner: CpuRunner, ids: Sequence[int], chunk: int) -> list[Observation]:
    """A text, watched in chunks."""
    return [
        runner.observe(batch_of([(0, start, ids[start : start + chunk])]))
        for start in range(0, len(ids), chunk)
    ]
