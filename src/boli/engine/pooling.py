"""Texts to vectors: what comes out of the model's final norm, pooled over the tokens of a text.

Embeddings share the engine's lock and its pages. A text borrows pages for all its tokens at once, or
waits; so whoever holds pages comes to an end. Long texts are computed in chunks between the steps of
the engine, short ones share a chunk. The pages are nobody else's, before or after. As long as a request
of the engine is short of pages, texts take turns: what one gives back is offered to the request first.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from boli.engine.batch import Batch, Float32
from boli.engine.engine import Engine
from boli.engine.waits import Waits
from boli.errors import BoliError, NumericError, UsageError

Pooling = Literal["mean", "last", "first"]
Float64 = npt.NDArray[np.float64]


class Embedding:
    """A text on its way to a vector. Made by `Pooler.submit`.

    Attributes:
        tokens: Its token ids, all that are computed: for `first` only the first.
        prompt_tokens: How many ids were given.
        pooling: `mean` of all tokens, `last`, or `first`.
        vector: float32 `[hidden_size]`, not normalized; None until it is there.
        error: Why there will be none.
        waits: Why it did not begin at once.
        started: When it did, on the monotonic clock; 0 before.
    """

    def __init__(
        self,
        token_ids: Sequence[int],
        pooling: Pooling,
        on_end: Callable[[Embedding], None] | None,
        waits: Waits | None = None,
    ) -> None:
        self.prompt_tokens = len(token_ids)
        # A token sees only those before it, so the first one's state does not depend on the others.
        self.tokens = list(token_ids[:1] if pooling == "first" else token_ids)
        self.pooling = pooling
        self.vector: Float32 | None = None
        self.error: Exception | None = None
        self.waits = waits or Waits()
        self.started = 0.0
        self._on_end = on_end
        self._computed = 0
        self._total: Float64 | None = None

    @property
    def finished(self) -> bool:
        """Whether the vector is there, or never will be."""
        return self.vector is not None or self.error is not None

    @property
    def computed(self) -> int:
        """How many tokens are computed."""
        return self._computed

    @property
    def pending(self) -> int:
        """How many tokens wait to be computed."""
        return len(self.tokens) - self._computed

    def _wanted(self, count: int) -> int:
        """How many of the next tokens' states are needed; they are the last ones of them."""
        return count if self.pooling == "mean" else int(count == self.pending)

    def _take(self, count: int, states: Float32) -> None:
        """Adds what was computed: row by row in float64, so that it does not matter how a text was cut."""
        self._computed += count
        total = np.zeros(states.shape[1]) if self._total is None else self._total
        for row in states:
            total += row
        self._total = total
        if not self.pending:
            vector = (total / (len(self.tokens) if self.pooling == "mean" else 1)).astype(np.float32)
            if not np.isfinite(vector).all():
                raise NumericError(
                    "the embedding is not finite", cause="NaN or infinity came out of the model"
                )
            self._end(vector=vector)

    def _end(self, *, vector: Float32 | None = None, error: Exception | None = None) -> None:
        self.vector, self.error = vector, error
        if self._on_end is not None:
            self._on_end(self)


class Pooler:
    """Computes embeddings on an engine's runner, beside its requests.

    Safe to use from many threads, by the engine's own lock. What goes wrong in a step ends the texts of
    that step only.

    Args:
        engine: Whose runner and pages are used.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[Embedding] = deque()
        self._borrowers: list[_Borrower] = []

    @property
    def busy(self) -> bool:
        """Whether there is anything left to do."""
        return bool(self._waiting or self._borrowers)

    def submit(
        self,
        token_ids: Sequence[int],
        pooling: Pooling = "mean",
        *,
        on_end: Callable[[Embedding], None] | None = None,
        waits: Waits | None = None,
    ) -> Embedding:
        """Puts a text into the queue.

        Args:
            token_ids: At least one token, and fewer than the context holds.
            pooling: `mean`, `last` or `first`.
            on_end: Called once, inside a step, with the vector or the error in place.
            waits: Its waiting so far, if it began to wait before this.

        Raises:
            PromptError, ContextLengthExceeded: As `Engine.check`.
            UsageError: The engine is closed.
        """
        self._engine.check(token_ids)
        embedding = Embedding(token_ids, pooling, on_end, waits)
        with self._engine._lock:
            if self._engine._closed:
                raise UsageError("the model is closed", remedy="load it again")
            if embedding.waits.reason is None:
                embedding.waits.behind = len(self._waiting)
                embedding.waits.turn("queue")
            self._waiting.append(embedding)
        return embedding

    def cancel(self, embedding: Embedding) -> None:
        """Forgets a text, in any state; nothing happens if it has ended. `on_end` is not called."""
        with self._engine._lock:
            if embedding in self._waiting:
                self._waiting.remove(embedding)
            for borrower in [each for each in self._borrowers if each.embedding is embedding]:
                self._give_back(borrower)

    def step(self) -> bool:
        """Computes one chunk: of a long text, or of several short ones.

        Returns:
            Whether there was anything that could be done; False too while pages are short.
        """
        with self._engine._lock:
            self._drop_what_is_lost()
            works = self._schedule()
            if not works:
                return False
            try:
                states = self._engine.runner.hidden(_batch_of(works))
            except Exception as error:  # whatever it is, it ends these texts only
                for borrower, _ in works:
                    self._finish(borrower, error)
            except BaseException:  # Ctrl-C: nobody will come back for the pages
                for borrower, _ in works:
                    self._give_back(borrower)
                raise
            else:
                self._publish(works, states)
            return True

    def run(self, embeddings: Sequence[Embedding]) -> list[Float32]:
        """Steps until these have ended, and the engine's requests meanwhile.

        Returns:
            Their vectors, in their order.

        Raises:
            Exception: What ended the first one that failed; usually a `BoliError`.
        """
        try:
            while not all(each.finished for each in embeddings):
                if not (self.step() | self._engine.step()):
                    time.sleep(0.001)  # another thread has the pages, and is between two steps
        finally:
            for each in embeddings:
                self.cancel(each)
        for each in embeddings:
            if each.error is not None:
                raise each.error
        return [cast("Float32", each.vector) for each in embeddings]

    def _schedule(self) -> list[tuple[_Borrower, int]]:
        scheduler = self._engine.scheduler
        rows = scheduler.max_rows
        if scheduler.running:
            rows = min(rows, scheduler.prefill_budget)
            if any(request.pending > 1 for request in scheduler.running):
                rows = max(1, rows // 2)  # answers wait for the rows of that prompt too
        works: list[tuple[_Borrower, int]] = []
        while rows and len(works) < scheduler.max_sequences:
            if len(works) == len(self._borrowers) and not self._admit():
                break
            borrower = self._borrowers[len(works)]
            works.append((borrower, min(rows, borrower.embedding.pending)))
            rows -= works[-1][1]
        if self._waiting and (not rows or len(works) == scheduler.max_sequences):
            self._waiting[0].waits.turn("places" if rows else "rows")
        return works

    def _admit(self) -> bool:
        """Starts the first waiting text if it finds room."""
        if not self._waiting:
            return False
        embedding, scheduler = self._waiting[0], self._engine.scheduler
        if self._borrowers and scheduler.waiting and scheduler.waiting[0].waits.reason == "pages":
            embedding.waits.turn("rows")  # the others are offered what comes back first
            return False
        borrower = _Borrower(self._engine, embedding)
        if not borrower.table.reserve(len(embedding.tokens)):
            needed = -(-len(embedding.tokens) // scheduler.page_size)
            embedding.waits.turn("pages", needed - scheduler.pool.available)
            return False
        embedding.waits.turn(None)
        embedding.started = time.perf_counter()
        self._borrowers.append(borrower)
        self._waiting.popleft()
        return True

    def _publish(self, works: list[tuple[_Borrower, int]], states: Float32) -> None:
        end = 0
        for borrower, count in works:
            start, end = end, end + borrower.embedding._wanted(count)
            try:
                borrower.embedding._take(count, states[start:end])
            except BoliError as error:
                self._finish(borrower, error)
            else:
                if borrower.embedding.finished:
                    self._give_back(borrower)

    def _finish(self, borrower: _Borrower, error: Exception) -> None:
        self._give_back(borrower)
        borrower.embedding._end(error=error)

    def _give_back(self, borrower: _Borrower) -> None:
        self._borrowers.remove(borrower)
        if borrower.epoch is self._engine.scheduler.pool.epoch:
            borrower.table.truncate(0)

    def _drop_what_is_lost(self) -> None:
        """Ends what can no longer be computed: the engine was closed, or forgot who held which pages."""
        closed = UsageError("the model is closed", remedy="load it again")
        for borrower in self._borrowers.copy():
            if self._engine._closed:
                self._finish(borrower, closed)
            elif borrower.epoch is not self._engine.scheduler.pool.epoch:
                self._finish(borrower, UsageError("the embedding was interrupted", remedy="ask again"))
        while self._engine._closed and self._waiting:
            self._waiting.popleft()._end(error=closed)


class _Borrower:
    """An embedding and the pages that it has."""

    def __init__(self, engine: Engine, embedding: Embedding) -> None:
        self.embedding = embedding
        self.table = engine.scheduler.new_table()
        self.epoch = engine.scheduler.pool.epoch


def unit(vector: Float32, dimensions: int | None = None) -> Float32:
    """The first `dimensions` numbers of a vector (all if None), scaled to length 1."""
    kept = vector[:dimensions].astype(np.float64)
    length = float(np.sqrt(kept @ kept))
    scaled: Float32 = (kept / length if length > 0.0 else kept).astype(np.float32)
    return scaled


def _batch_of(works: list[tuple[_Borrower, int]]) -> Batch:
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[int] = []
    outputs: list[int] = []
    for index, (borrower, count) in enumerate(works):
        embedding = borrower.embedding
        start = embedding._computed
        tokens += embedding.tokens[start : start + count]
        positions += range(start, start + count)
        sequences += [index] * count
        outputs += range(len(tokens) - embedding._wanted(count), len(tokens))
    return Batch(
        token_ids=np.array(tokens, np.int32),
        positions=np.array(positions, np.int32),
        sequence_of_row=np.array(sequences, np.int32),
        page_tables=np.stack([borrower.table.entries for borrower, _ in works]),
        logits_rows=np.array(outputs, np.int32),
    )
