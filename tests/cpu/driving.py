"""Drives a CpuRunner by hand, without engine, for tests of its arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boli.cpu.oracle import likeliest
from boli.cpu.runner import CpuRunner
from boli.engine.batch import Batch
from boli.engine.ledger import Ledger
from boli.formats.checkpoint import Checkpoint, open_checkpoint

Logits = NDArray[np.float32]

PAGES_A_SEQUENCE = 24


def make_runner(
    model: Path | Checkpoint,
    *,
    threads: int = 2,
    max_rows: int = 64,
    sequences: int = 8,
    kv_type: str = "f32",
) -> CpuRunner:
    """A runner with 768 positions for each of a few sequences; exact where the weights are."""
    checkpoint = open_checkpoint(model) if isinstance(model, Path) else model
    runner = CpuRunner(
        checkpoint,
        ledger=Ledger(),
        num_pages=PAGES_A_SEQUENCE * sequences,
        max_sequences=sequences,
        max_rows=max_rows,
        threads=threads,
        context=PAGES_A_SEQUENCE * 32,
        kv_type=kv_type,
    )
    if isinstance(model, Path):
        checkpoint.close()
    return runner


def page_tables(sequences: int) -> NDArray[np.int32]:
    """Pages of each sequence, scattered: no two neighbours in order."""
    pages = np.random.default_rng(7).permutation(PAGES_A_SEQUENCE * sequences).astype(np.int32)
    return pages.reshape(sequences, PAGES_A_SEQUENCE)


def step(runner: CpuRunner, parts: Sequence[tuple[int, int, Sequence[int]]], sequences: int = 8) -> Logits:
    """One step over `(sequence, first position, token ids)`; the logits of all its rows, copied.

    Whatever the step is, the likeliest tokens that the runner found are NumPy's.
    """
    rows = sum(len(ids) for _, _, ids in parts)
    batch = Batch(
        token_ids=np.concatenate([np.asarray(ids, np.int32) for _, _, ids in parts]),
        positions=np.concatenate([np.arange(p, p + len(ids), dtype=np.int32) for _, p, ids in parts]),
        sequence_of_row=np.concatenate([np.full(len(ids), s, np.int32) for s, _, ids in parts]),
        page_tables=page_tables(sequences),
        logits_rows=np.arange(rows, dtype=np.int32),
    )
    logits = runner.forward(batch).copy()
    np.testing.assert_array_equal(runner.likeliest, likeliest(logits))
    return logits


def logits_of(runner: CpuRunner, ids: Sequence[int], *, chunk: int = 10**9, sequence: int = 0) -> Logits:
    """Logits of every position of a text, fed in chunks."""
    chunk = min(chunk, runner.max_rows)
    starts: Iterable[int] = range(0, len(ids), chunk)
    return np.concatenate([step(runner, [(sequence, at, ids[at : at + chunk])]) for at in starts])


def greedy(runner: CpuRunner, ids: Sequence[int], count: int) -> list[int]:
    """Continues with the likeliest token, `count` times."""
    answer = [int(logits_of(runner, ids)[-1].argmax())]
    for position in range(len(ids), len(ids) + count - 1):
        answer.append(int(step(runner, [(0, position, answer[-1:])])[0].argmax()))
    return answer


def kl_divergence(reference: Logits, other: Logits) -> float:
    """Mean over rows of KL(reference ‖ other), in nats; a row at a time, as vocabularies are large."""
    total = 0.0
    for left, right in zip(reference, other, strict=True):
        p, q = _log_softmax(left), _log_softmax(right)
        total += float((np.exp(p) * (p - q)).sum())
    return total / len(reference)


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - float(logits.max())
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
