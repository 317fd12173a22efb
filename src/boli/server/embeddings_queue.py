"""The way to the engine for texts that are to become vectors: in turns, and in sight.

    embed(job) ─▶ arrivals ─▶ one pump: between two steps of the engine one chunk ─▶ vectors

One task, the pump, asks the engine's thread for a chunk, and for the next one only when that is done. So an
answer's next token waits for one chunk at most, however many wait for vectors; texts of several requests
share a chunk and take turns.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from boli.engine.batch import Float32
from boli.engine.engine import Engine
from boli.engine.pooling import Embedding, Pooler, Pooling
from boli.engine.request import FinishReason
from boli.engine.waits import Waits
from boli.server.errors import ApiError

if TYPE_CHECKING:
    from boli.server.service import Service

log = logging.getLogger("boli.server")

_AT_ONCE = 32  # texts of a request; then it is the next request's turn
_PAUSE = 0.005  # seconds until pages are asked for again when all are in use


@dataclass(eq=False, slots=True)
class EmbeddingJob:
    """A request for vectors.

    Attributes:
        prompts: Token ids of each text.
        pooling: `mean`, `last` or `first`.
        request_id: Made by the server; for the log.
        label: Who asks: the name of a key, never the key.
        submitted: When, on the monotonic clock.
        waits: Why its first text did not begin at once.
        ended: When the last one ended, or the request was given up; 0 before.
        vectors: Those that are there, in the order of the texts.
        trouble: What went wrong with one of them.
        error: What ended the request, if something did.
    """

    prompts: Sequence[Sequence[int]]
    pooling: Pooling = "mean"
    request_id: str = ""
    label: str = ""
    submitted: float = field(default_factory=time.perf_counter)
    waits: Waits = field(default_factory=Waits)
    ended: float = 0.0
    vectors: list[Float32] = field(default_factory=list)
    trouble: Exception | None = None
    error: BaseException | None = None
    texts: deque[Embedding] = field(default_factory=deque)  # that are with the pooler
    given: int = 0  # how many were
    first: Embedding | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to compute."""
        return self.trouble is not None or len(self.vectors) == len(self.prompts)

    @property
    def started(self) -> float:
        """When its first text began; 0 before."""
        return 0.0 if self.first is None else self.first.started

    @property
    def prompt_tokens(self) -> int:
        """How many tokens all texts have."""
        return sum(map(len, self.prompts))

    @property
    def computed_tokens(self) -> int:
        """How many of those are computed, or need not be."""
        done = sum(map(len, self.prompts[: len(self.vectors)]))
        return done + sum(each.computed for each in self.texts.copy())

    def pages(self, page_size: int) -> int:
        """How many pages of the KV cache its texts have borrowed."""
        running = (each for each in self.texts.copy() if each.started and not each.finished)
        return sum(-(-len(each.tokens) // page_size) for each in running)

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended, in the words that answers have."""
        if self.error is None:
            return "stop"
        given_up = isinstance(self.error, (asyncio.CancelledError, ApiError))  # by the client, by the server
        return "aborted" if given_up else "error"

    @property
    def state(self) -> str:
        """`waiting` until a text has begun, then `running`."""
        return "running" if self.started else "waiting"

    def summary(self) -> dict[str, Any]:
        """Times and counts, under the names that those of an answer have."""
        end = self.ended or time.perf_counter()
        started = self.started or end
        return {
            "queued_s": started - self.submitted,
            "compute_s": end - started,
            "total_s": end - self.submitted,
            "texts": len(self.prompts),
            "prompt_tokens": self.prompt_tokens,
            "why_waited": str(self.waits),
        }

    def receipt(self) -> dict[str, Any]:
        """The summary, with how fast it was; whoever ran beside it had a share of that time."""
        found = self.summary()
        took = found["compute_s"]
        return {**found, "tokens_per_s": self.prompt_tokens / took if took > 0.0 else 0.0}


class EmbeddingQueue:
    """Computes vectors between the engine's steps, one chunk at a time. Call it in the event loop.

    Args:
        service: The way to the engine's thread.

    Attributes:
        on_end: Called with each request that has ended.
    """

    def __init__(self, service: Service) -> None:
        self.on_end: list[Callable[[EmbeddingJob], None]] = []
        self._service = service
        self._pooler = Pooler(service.llm._engine)
        self._open: dict[EmbeddingJob, None] = {}
        self._arrived: deque[EmbeddingJob] = deque()
        self._gone: deque[EmbeddingJob] = deque()
        self._inside: list[EmbeddingJob] = []  # the engine's thread's own
        self._pump: asyncio.Task[None] | None = None

    @property
    def open_jobs(self) -> list[EmbeddingJob]:
        """Requests that have not ended, oldest first."""
        return list(self._open)

    @property
    def waiting(self) -> int:
        """How many requests have no text that has begun."""
        return sum(not job.started for job in self._open)

    async def embed(self, job: EmbeddingJob) -> list[Float32]:
        """The vectors of texts, in their order.

        Returns:
            float32 `[hidden_size]` for each, not normalized.

        Raises:
            ApiError: 429 if too many requests wait, 503 if the server ends or the engine has died.
            BoliError: A text cannot be computed, or its vector is none.
        """
        self._service.check_room(1)
        job.waits.behind = self._service.waiting
        job.waits.turn("queue")
        self._open[job] = None
        self._arrived.append(job)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._work())
        try:
            await job.over.wait()
        except asyncio.CancelledError as error:
            self._end(job, error)
            raise
        if job.error is not None:
            raise job.error
        return job.vectors

    def end_all(self, error: Exception) -> int:
        """Ends all requests; returns how many there were."""
        jobs = self.open_jobs
        for job in jobs:
            self._end(job, error)
        return len(jobs)

    async def close(self) -> None:
        """Waits for the pump; only when the engine's thread has ended, which it needs."""
        if self._pump is not None:
            await asyncio.wait([self._pump])

    async def _work(self) -> None:
        """The pump: goes on until every request has ended and nothing is left of it in the pooler."""
        try:
            while self._open or self._gone:
                advanced = await self._service.between_steps(self._turn)
                for job in self.open_jobs:
                    if job.finished:
                        self._end(job, job.trouble)
                if not advanced and self._open:
                    await asyncio.sleep(_PAUSE)
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("embeddings failed")
            self.end_all(error)
            self._forget()  # the server ends: the engine's lock is not held for long any more

    def _end(self, job: EmbeddingJob, error: BaseException | None) -> None:
        if job not in self._open:
            return
        del self._open[job]
        job.error, job.ended = error, time.perf_counter()
        job.waits.turn(None)
        self._gone.append(job)
        job.over.set()
        for tell in self.on_end:
            tell(job)

    # --- in the engine's thread -------------------------------------------------------------------

    def _turn(self, _engine: Engine) -> bool:
        """Takes in what is new, lets go of what has ended, and computes one chunk."""
        self._forget()
        while self._arrived:
            self._inside.append(self._arrived.popleft())
        for job in self._inside:
            self._refill(job)
        advanced = self._pooler.step()
        for job in self._inside:
            self._collect(job)
        return advanced

    def _refill(self, job: EmbeddingJob) -> None:
        """Gives the pooler the next texts of a request when all that it had are done."""
        if job.texts or job.finished:
            return
        try:
            for prompt in job.prompts[job.given : job.given + _AT_ONCE]:
                text = self._pooler.submit(prompt, job.pooling, waits=None if job.given else job.waits)
                job.first = job.first or text
                job.texts.append(text)
                job.given += 1
        except Exception as error:  # it is one request's trouble
            job.trouble = error

    def _collect(self, job: EmbeddingJob) -> None:
        while job.trouble is None and job.texts and job.texts[0].finished:
            text = job.texts.popleft()
            job.trouble = text.error
            if text.vector is not None:
                job.vectors.append(text.vector)

    def _forget(self) -> None:
        """Takes the texts of requests that have ended out of the pooler."""
        while self._gone:
            job = self._gone.popleft()
            while job.texts:
                self._pooler.cancel(job.texts.popleft())
            for jobs in (self._inside, self._arrived):
                if job in jobs:
                    jobs.remove(job)
