"""Which rows of which requests run in the next step.

Requests are admitted in the order in which they came, and join and leave between any two steps.
Rows of prompts and of answers share a step. When pages run out, the youngest request gives its pages
back and is computed again later, from its prompt and what it had generated, with the same result.
The oldest request is never put off, so there is always progress.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from boli.engine.batch import Batch
from boli.engine.pages import PagePool, PageTable
from boli.engine.request import FinishReason, Request, Session


@dataclass(frozen=True, slots=True)
class Work:
    """The next `count` tokens of a request, to be computed in one step."""

    request: Request
    count: int

    @property
    def completes(self) -> bool:
        """Whether the request's last token is among them, so that its logits are wanted."""
        return self.count == self.request.pending


class Scheduler:
    """Owns the queue, the running requests and the pages.

    Args:
        num_pages: Pages of the runner.
        page_size: Positions in a page.
        context: The most positions of a request; its pages must exist.
        max_rows: The most rows of a step.
        max_sequences: The most requests that run at once, at most `max_rows`.
        chunk: The most rows of one request in a step; `max_rows` if left out.
    """

    def __init__(
        self,
        *,
        num_pages: int,
        page_size: int,
        context: int,
        max_rows: int,
        max_sequences: int,
        chunk: int | None = None,
    ) -> None:
        if context > num_pages * page_size:
            raise ValueError(f"{num_pages} pages of {page_size} do not hold a context of {context}")
        if not 1 <= max_sequences <= max_rows:
            raise ValueError(f"{max_sequences} sequences do not share {max_rows} rows")
        self.pool = PagePool(num_pages)
        self.page_size = page_size
        self.context = context
        self.max_rows = max_rows
        self.max_sequences = max_sequences
        self.chunk = chunk or max_rows
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # oldest first
        self.idle: dict[Session, None] = {}  # sessions that keep pages, longest unused first
        self.preemptions = 0

    def new_table(self) -> PageTable:
        """An empty page table."""
        return PageTable(self.pool, self.page_size, self.context)

    def add(self, request: Request) -> None:
        """Puts a request at the end of the queue."""
        self.waiting.append(request)
        if request.session is not None:
            request.session.request = request

    def schedule(self) -> list[Work]:
        """Chooses the work of one step, oldest request first; empty if there is nothing to do."""
        works: list[Work] = []
        rows = self.max_rows
        while len(works) < len(self.running):
            request = self.running[len(works)]
            # No row is missing for the younger ones: what a request wants in a step never grows, but
            # for the last one's, which was admitted with what was left.
            count = min(request.pending, self.chunk, rows)
            if not self._make_room(request, request.computed + count):
                break
            works.append(Work(request, count))
            rows -= count
        while rows and len(self.running) < self.max_sequences and self._admit():
            request = self.running[-1]
            works.append(Work(request, min(request.pending, self.chunk, rows)))
            rows -= works[-1].count
        return works

    def finish(self, request: Request, reason: FinishReason, error: Exception | None = None) -> None:
        """Ends a request in any state; nothing happens if it has ended."""
        if request.finished:
            return
        if request.state == "running":
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        request.end(reason, error)
        session = request.session
        if session is not None:
            session.request = None
            if request.computed and reason != "error" and not session.closed:
                self._keep(session, request)
        request.table.truncate(0)

    def drop(self, session: Session) -> None:
        """Releases the pages that a session keeps."""
        session.table.truncate(0)
        session.tokens = []
        self.idle.pop(session, None)

    def reset(self) -> None:
        """Forgets all requests and sessions and makes all pages free."""
        self.waiting.clear()
        self.running.clear()
        self.idle.clear()
        self.pool.reset()

    def _make_room(self, request: Request, length: int) -> bool:
        """Reserves pages, taking them from idle sessions, then from the youngest request.

        Returns:
            False if the request itself was the youngest and had to give way.
        """
        while not request.table.reserve(length):
            if self.idle:
                self.drop(next(iter(self.idle)))
                continue
            youngest = self.running.pop()
            youngest.table.truncate(0)
            youngest.computed = 0
            youngest.state = "waiting"
            self.waiting.appendleft(youngest)  # older than all that wait, so the order stays
            self.preemptions += 1
            if youngest is request:
                return False
        return True

    def _admit(self) -> bool:
        """Starts the first waiting request if all its tokens and one more find room."""
        if not self.waiting:
            return False
        request, session = self.waiting[0], self.waiting[0].session
        length = len(request.tokens) + 1
        if request.table.missing(length) > self.pool.free + sum(len(idle.table) for idle in self.idle):
            return False
        if session is not None:
            request.computed = session.reusable(request.tokens)
            session.table.truncate(request.computed)
            request.table, session.table = session.table, request.table
            self.drop(session)
        while not request.table.reserve(length):
            self.drop(next(iter(self.idle)))
        if not request.started:
            request.started = time.perf_counter()
            request.reused = request.computed
        request.state = "running"
        self.running.append(self.waiting.popleft())
        return True

    def _keep(self, session: Session, request: Request) -> None:
        """Hands a request's computed tokens and their pages to its session."""
        self.drop(session)
        request.table.truncate(request.computed)
        session.tokens = request.tokens[: request.computed]
        session.table, request.table = request.table, session.table
        self.idle[session] = None


def batch_of(works: list[Work]) -> Batch:
    """The rows of a step, as the runner takes them."""
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[int] = []
    outputs: list[int] = []
    for index, work in enumerate(works):
        start = work.request.computed
        tokens += work.request.tokens[start : start + work.count]
        positions += range(start, start + work.count)
        sequences += [index] * work.count
        if work.completes:
            outputs.append(len(tokens) - 1)
    tables = [work.request.table.entries for work in works]
    return Batch(
        token_ids=np.array(tokens, np.int32),
        positions=np.array(positions, np.int32),
        sequence_of_row=np.array(sequences, np.int32),
        page_tables=tables[0][None] if len(tables) == 1 else np.stack(tables),
        logits_rows=np.array(outputs, np.int32),
    )
