"""Which rows of which requests run in the next step.

Requests are admitted in the order in which they came, and join and leave between any two steps.
Rows of prompts and of answers share a step: every answer gets its row, and prompts what is left, the
oldest first; but beside answers no more than a budget, so that a long prompt does not stall them. When
pages run out, the youngest request gives its pages back and is computed again later, from its prompt
and what it had generated, with the same result. The oldest request is never put off, so there is
always progress.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from boli.engine.batch import Batch
from boli.engine.pages import PageTable
from boli.engine.prefix import PrefixTree
from boli.engine.request import FinishReason, Request

# Of a step, with all requests together: each takes a row of logits, a megabyte where the vocabulary is large.
SCORED_ROWS = 64


@dataclass(frozen=True, slots=True)
class Work:
    """What a request computes in one step.

    Attributes:
        request: Whose work it is.
        count: How many of its tokens, from the first on that is not computed.
        draft: Guesses of the tokens that follow its last one; none unless that is among them.
        scored: Whether the logits of all of them are wanted, as the prompt's tokens want scores.
    """

    request: Request
    count: int
    draft: tuple[int, ...] = ()
    scored: bool = False

    @property
    def completes(self) -> bool:
        """Whether the request's last token is among them, so that its logits are wanted."""
        return self.count == self.request.pending

    @property
    def rows(self) -> int:
        """How many rows it takes."""
        return self.count + len(self.draft)

    @property
    def outputs(self) -> int:
        """How many rows' logits are wanted: the last token's, and those of the guesses behind it."""
        if self.scored:
            return self.rows
        return 1 + len(self.draft) if self.completes else 0


class Scheduler:
    """Owns the queue, the running requests and the pages.

    Args:
        num_pages: Pages of the runner.
        page_size: Positions in a page.
        context: The most positions of a request; its pages must exist.
        max_rows: The most rows of a step.
        max_sequences: The most requests that run at once, at most `max_rows`.
        prefill_budget: The most rows that prompts take in a step beside answers; where there is no
            answer to stall they may have all.

    Attributes:
        at: Whose books are being changed, or were when something went wrong.
    """

    def __init__(
        self,
        *,
        num_pages: int,
        page_size: int,
        context: int,
        max_rows: int,
        max_sequences: int,
        prefill_budget: int,
    ) -> None:
        if context > num_pages * page_size:
            raise ValueError(f"{num_pages} pages of {page_size} do not hold a context of {context}")
        if not 1 <= max_sequences <= max_rows:
            raise ValueError(f"{max_sequences} sequences do not share {max_rows} rows")
        if prefill_budget < 1:
            raise ValueError(f"with {prefill_budget} rows a prompt never ends")
        self.tree = PrefixTree(num_pages, page_size)
        self.pool = self.tree.pool
        self.page_size = page_size
        self.context = context
        self.max_rows = max_rows
        self.max_sequences = max_sequences
        self.prefill_budget = prefill_budget
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # oldest first
        self.preemptions = 0
        self.at: Request | None = None

    def new_table(self) -> PageTable:
        """An empty page table."""
        return PageTable(self.pool, self.page_size, self.context)

    def add(self, request: Request) -> None:
        """Puts a request at the end of the queue."""
        request.waits.behind = len(self.waiting)
        request.waits.turn("queue")
        self.waiting.append(request)

    def schedule(self) -> list[Work]:
        """Chooses the work of one step; empty if there is nothing to do."""
        works = [
            Work(request, 1)
            for request in self.running.copy()
            if request.state == "running" and request.pending == 1 and self._make_room(request)
        ]
        # There is a row for each answer, and one more if a prompt is running too.
        rows = self.max_rows - len(works)
        if works:
            rows = min(rows, self.prefill_budget)
        scored = SCORED_ROWS
        for request in self.running:
            self.at = request
            if rows and request.pending > 1:
                self._adopt(request)  # another one may have computed the same in the meantime
                rows, scored = self._read(request, works, rows, scored)
        while rows and len(self.running) < self.max_sequences and self._admit():
            rows, scored = self._read(self.running[-1], works, rows, scored)
        if self.waiting:
            self._explain(rows)
        return works

    def _read(self, request: Request, works: list[Work], rows: int, scored: int) -> tuple[int, int]:
        """Adds work on a prompt; returns how many rows are left, and how many of those for scores."""
        count = min(request.pending, rows)
        if request.scoring:
            count = min(count, scored)
            scored -= count
        if count:
            works.append(Work(request, count, scored=request.scoring))
        return rows - count, scored

    def share(self, request: Request) -> None:
        """Lets others have the full pages that a request has computed."""
        self.at = request
        self.tree.insert(request.table, request.tokens, request.computed, request.salt)

    def finish(self, request: Request, reason: FinishReason, error: Exception | None = None) -> None:
        """Ends a request in any state; nothing happens if it has ended."""
        if request.finished:
            return
        self.at = request
        if request.state == "running":
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        request.waits.turn(None)
        request.end(reason, error)
        if reason == "error":
            self.tree.forget(request.table)
        else:
            self.share(request)
            request.table.truncate(0)

    def settled(self) -> None:
        """The books are whole: what goes wrong from now on is nobody's."""
        self.at = None

    def restart(self, request: Request) -> None:
        """Puts a request that `reset` forgot into the queue again, to be computed from its first token on."""
        request.table = self.new_table()
        request.computed = 0
        request.preemptions += request.state == "running"
        request.state = "waiting"
        self.add(request)

    def reset(self) -> None:
        """Forgets all requests and makes all pages free."""
        self.waiting.clear()
        self.running.clear()
        self.tree.reset()

    def _make_room(self, request: Request) -> bool:
        """Reserves the page of an answer's next token, if need be taking it from the youngest request.

        A prompt needs none: it has its pages since it was admitted.

        Returns:
            False if the request itself was the youngest and had to give way.
        """
        self.at = request
        while not request.table.reserve(len(request.tokens)):
            youngest = self.running.pop()
            youngest.table.truncate(0)
            youngest.computed = 0
            youngest.state = "waiting"
            youngest.preemptions += 1
            youngest.waits.turn("pages", 1)
            self.waiting.appendleft(youngest)  # older than all that wait, so the order stays
            self.preemptions += 1
            if youngest is request:
                return False
        return True

    def _admit(self) -> bool:
        """Starts the first waiting request if all its tokens and one more find room."""
        if not self.waiting:
            return False
        self.at = request = self.waiting[0]
        reused = request.reused
        self._adopt(request)
        if not request.table.reserve(len(request.tokens) + 1):
            request.table.truncate(0)
            request.computed, request.reused = 0, reused
            return False
        if not request.started:
            request.started = time.perf_counter()
        request.state = "running"
        request.waits.turn(None)
        self.running.append(self.waiting.popleft())
        return True

    def _explain(self, rows: int) -> None:
        """Writes down why the first in the queue does not run, with so many rows left in the step."""
        request = self.waiting[0]
        if len(self.running) >= self.max_sequences:
            request.waits.turn("places")
        elif not rows:
            request.waits.turn("rows")
        else:
            # It takes what the prefix tree knows as it is; that may be less than this by then.
            needed = -(-(len(request.tokens) + 1) // self.page_size)
            request.waits.turn("pages", needed - self.pool.available)

    def _adopt(self, request: Request) -> None:
        """Skips what the prefix tree knows; but a score takes the logits of every token before."""
        if request.scoring:
            return
        known = self.tree.adopt(request.table, request.tokens, request.salt)
        if known > request.computed:
            if not request.preemptions:
                request.reused += known - request.computed
            request.computed = known


def batch_of(works: list[Work]) -> Batch:
    """The rows of a step, as the runner takes them."""
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[int] = []
    outputs: list[int] = []
    for index, work in enumerate(works):
        start = work.request.computed
        tokens += work.request.tokens[start : start + work.count]
        tokens += work.draft
        positions += range(start, start + work.rows)
        sequences += [index] * work.rows
        outputs += range(len(tokens) - work.outputs, len(tokens))
    tables = [work.request.table.entries for work in works]
    return Batch(
        token_ids=np.array(tokens, np.int32),
        positions=np.array(positions, np.int32),
        sequence_of_row=np.array(sequences, np.int32),
        page_tables=tables[0][None] if len(tables) == 1 else np.stack(tables),
        logits_rows=np.array(outputs, np.int32),
    )
