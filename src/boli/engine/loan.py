"""Pages of the KV cache on loan, to run tokens beside the engine's requests and look at what happens.

A borrower takes all its pages at once or gets an error that says how many there are; it gives them back
however it ends. Each of its steps holds the engine's lock, and between them the requests go on. While pages
are on loan a request may wait for one; it goes on when they come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from boli.engine.batch import Batch
from boli.engine.engine import Engine
from boli.errors import OutOfMemory, UsageError

Result = TypeVar("Result")


class Loan:
    """Pages for one sequence. Made by `borrow`.

    Attributes:
        evicted: Cached pages, of prompts that may come again, that were given up for it.
    """

    def __init__(self, engine: Engine, positions: int) -> None:
        self._engine = engine
        with engine._lock:
            self._check_open()
            pool = engine.scheduler.pool
            self._epoch = pool.epoch
            self.table = engine.scheduler.new_table()
            before = pool.cached
            if not self.table.reserve(positions):
                needed = -(-positions // engine.scheduler.page_size)
                raise OutOfMemory(
                    f"{positions:,} tokens need {needed} pages of the KV cache; {pool.available} are free",
                    cause="requests that are running hold the others" if pool.used else "there are no more",
                    remedy="wait until they end, or load the model with a larger context",
                )
            self.evicted = before - pool.cached

    def run(self, token_ids: list[int], first: int, outputs: int, step: Callable[[Batch], Result]) -> Result:
        """Runs tokens at the positions from `first` on, under the engine's lock.

        Args:
            token_ids: Consecutive tokens of the sequence.
            first: The position of the first.
            outputs: Of how many, the last ones, logits are wanted.
            step: Such as `runner.forward`.

        Raises:
            UsageError: The model was closed, or the engine had to forget who holds which pages.
        """
        rows = len(token_ids)
        batch = Batch(
            token_ids=np.array(token_ids, np.int32),
            positions=np.arange(first, first + rows, dtype=np.int32),
            sequence_of_row=np.zeros(rows, np.int32),
            page_tables=self.table.entries[None],
            logits_rows=np.arange(rows - outputs, rows, dtype=np.int32),
        )
        return self.use(lambda: step(batch))

    def use(self, work: Callable[[], Result]) -> Result:
        """Does something with the runner, under the engine's lock; raises as `run`."""
        with self._engine._lock:
            self._check_open()
            if self._epoch is not self._engine.scheduler.pool.epoch:
                raise UsageError("the engine was interrupted, and the pages are lost", remedy="try again")
            return work()

    def give_back(self) -> None:
        """Returns the pages."""
        with self._engine._lock:
            if self._epoch is self._engine.scheduler.pool.epoch:
                self.table.truncate(0)

    def _check_open(self) -> None:
        if self._engine._closed:
            raise UsageError("the model is closed", remedy="load it again")


@contextmanager
def borrow(engine: Engine, positions: int) -> Iterator[Loan]:
    """Lends pages for that many positions.

    Raises:
        OutOfMemory: There are too few; nothing was taken.
        UsageError: The engine is closed.
    """
    loan = Loan(engine, positions)
    try:
        yield loan
    finally:
        loan.give_back()
