"""The engine as the event loop sees it: requests go in, answers come out, and nothing blocks.

The loop never waits for the engine's lock, which is held for as long as a step takes. New requests lie in
an inbox that the engine's thread empties between steps, and after each step it wakes the loop once, for
all requests together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from boli.engine.engine import Engine
from boli.server.answer import Answer, Job, Mailbox
from boli.server.embeddings_queue import EmbeddingJob, EmbeddingQueue
from boli.server.engine_thread import IDLE_SECONDS, EngineThread
from boli.server.errors import ApiError, overloaded, shutting_down

if TYPE_CHECKING:
    from boli.engine.llm import LLM

log = logging.getLogger("boli.server")

T = TypeVar("T")

FEW = 4
SICK = 3  # failures in a row after which the engine is not healthy
TEXT_THREADS = 2  # tokenizers and templates


class Service:
    """Runs requests. Start it in the event loop, and call it only there.

    Args:
        llm: The model.
        max_queue: How many requests may wait for their turn.
        stall_seconds: A step that takes longer is stuck: its requests are told so.
        stream_interval: Where more than `FEW` requests are open, seconds between two pieces of one answer
            at least. To send one costs as much as a good part of a token, and takes a core from a step.

    Attributes:
        draining: Whether the server ends, and takes no more requests.
        on_news: Called with each answer that has something new, before it is read.
        on_end: Called with each answer that has ended.
        embeddings: Requests for vectors, which run beside the others.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        max_queue: int = 64,
        stall_seconds: float = 60.0,
        stream_interval: float = 0.0,
    ) -> None:
        self.llm = llm
        self.max_queue = max_queue
        self.stall_seconds = stall_seconds
        self.stream_interval = stream_interval
        self.draining = False
        self.on_news: list[Callable[[Answer], None]] = []
        self.on_end: list[Callable[[Answer], None]] = []
        self._texts = ThreadPoolExecutor(TEXT_THREADS, "boli-text")
        self._engine: Engine = llm._engine
        self._thread = EngineThread(self._engine, self._wake)
        self._open: dict[Answer, None] = {}
        self._woken = False
        self._told_all = 0.0  # when what was held back was last told
        self._closing = False
        self._failures = 0
        self._ends: deque[float] = deque(maxlen=16)  # when requests ended, for Retry-After
        self._watch: asyncio.Task[None] | None = None
        self.embeddings = EmbeddingQueue(self)
        self.embeddings.on_end.append(self._count)

    def start(self) -> None:
        """Starts the engine's thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self._watch = self._loop.create_task(self._watch_over())

    # --- requests ---------------------------------------------------------------------------------

    async def submit(self, job: Job) -> Answer:
        """Puts a request into the queue; see `submit_all`."""
        return (await self.submit_all([job]))[0]

    async def submit_all(self, jobs: Sequence[Job]) -> list[Answer]:
        """Puts requests into the queue, all or none; their answers share a mailbox.

        Raises:
            ApiError: 429 if too many wait, 503 if the server ends or the engine has died.
            SamplingError, PromptError, ContextLengthExceeded: One cannot be run.
        """
        self.check_room(len(jobs))
        for job in jobs:
            self._engine.check(job.prompt_ids)
        mailbox = Mailbox()
        answers = [Answer(job, self.llm.tokenizer, mailbox, self._thread.abort) for job in jobs]
        self._open |= dict.fromkeys(answers)
        self._thread.take(answers)
        await self._admitted(answers, mailbox)
        return answers

    def check_room(self, count: int) -> None:
        """Refuses requests that come too late, or when too many wait.

        Raises:
            ApiError: 429 if too many wait, 503 if the server ends or the engine has died.
        """
        if self.draining:
            raise shutting_down()
        if not self._thread.alive:
            raise ApiError(503, "the engine has died; its log says how", code="engine_dead")
        waiting = self.waiting
        # A request that fans out beyond the queue's end is taken where nobody else waits.
        if waiting and waiting + count > self.max_queue:
            raise overloaded(waiting, self.retry_after(waiting))

    async def _admitted(self, answers: list[Answer], mailbox: Mailbox) -> None:
        """Waits until the engine has taken requests in: what it refuses must not become a stream."""
        try:
            for answer in answers:
                while answer.request is None and not answer.closed:
                    await mailbox.next()
        except asyncio.CancelledError:
            _cancel_all(answers)
            raise
        failures = [answer.failure for answer in answers if answer.failure is not None]
        if failures:
            _cancel_all(answers)
            raise failures[0]
        for answer in answers:
            mailbox.put(answer)

    async def in_text_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Runs what would hold up the loop, such as a tokenizer, in a thread."""
        return await self._loop.run_in_executor(self._texts, work, *arguments)

    async def between_steps(self, work: Callable[[Engine], T]) -> T:
        """Runs something in the engine's thread between two steps; keep it as short as a step."""
        if not self._thread.alive or self._closing:
            raise shutting_down()
        future: asyncio.Future[T] = self._loop.create_future()

        def call() -> None:
            try:
                result = work(self._engine)
            except BaseException as error:  # the engine's thread goes on
                self._tell(_fail, future, error)
            else:
                self._tell(_settle, future, result)

        self._thread.call(call)
        return await future

    # --- the end ----------------------------------------------------------------------------------

    async def drain(self, timeout: float) -> int:
        """Takes no more requests, waits for those that are there, and ends those that take too long.

        Returns:
            How many had to be ended.
        """
        self.draining = True
        end = time.monotonic() + timeout
        while (self._open or self.embeddings.open_jobs) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        left = list(self._open)
        self._end_with(left, shutting_down())
        return len(left) + self.embeddings.end_all(shutting_down())

    async def close(self) -> None:
        """Ends all requests and the thread, and waits for it as long as a step may take."""
        self.draining = self._closing = True
        self._end_with(list(self._open), shutting_down())
        self.embeddings.end_all(shutting_down())
        self._thread.stop()
        if self._watch is not None:
            self._watch.cancel()
        end = time.monotonic() + self.stall_seconds
        while self._thread.alive and time.monotonic() < end:
            await asyncio.sleep(0.005)
        if not self._thread.alive:
            await self.embeddings.close()
        self._texts.shutdown(wait=False, cancel_futures=True)

    # --- how it is --------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return len(self._thread.inbox) + len(self._engine.scheduler.waiting) + self.embeddings.waiting

    def beat_age(self) -> float:
        """Seconds since the engine's thread was last between two steps."""
        return self._thread.beat_age()

    @property
    def trouble(self) -> str | None:
        """What is wrong with the engine, if something is."""
        if not self._thread.alive:
            return "the engine's thread has ended"
        if self.beat_age() > self.stall_seconds:
            return f"the engine has been in one step for {self.beat_age():.0f} s"
        failures = max(self._failures, self._thread.failures)
        return f"the engine failed {failures} times in a row" if failures >= SICK else None

    def retry_after(self, waiting: int) -> int:
        """Seconds until there should be room again, from how fast requests ended lately."""
        if len(self._ends) < 2:
            return 1
        rate = (len(self._ends) - 1) / max(1e-3, time.monotonic() - self._ends[0])
        return max(1, min(60, math.ceil(waiting / 2 / rate)))

    def open_answers(self) -> list[Answer]:
        """Requests that have not ended, oldest first."""
        return list(self._open)

    def stats(self) -> dict[str, Any]:
        """What the engine does now; cheap, and nothing that a user wrote."""
        scheduler = self._engine.scheduler
        pool, vectors = scheduler.pool, self.embeddings.open_jobs
        return {
            "running": len(scheduler.running) + sum(job.started > 0 for job in vectors),
            "waiting": self.waiting,
            "open": len(self._open) + len(vectors),
            "pages": {
                "total": pool.num_pages,
                "used": pool.num_pages - pool.available,
                "cached": pool.cached,
                "free": pool.free,
                "size": scheduler.page_size,
            },
            "preemptions": scheduler.preemptions,
            "beat_age_s": self.beat_age(),
            "draining": self.draining,
        }

    # --- news from the engine's thread ------------------------------------------------------------

    def _wake(self) -> None:
        """After each step, in the engine's thread; the loop is left alone where nothing is due."""
        if not self._woken and (self._time_for_all() or any(map(_urgent, list(self._open)))):
            self._woken = True
            self._tell(self._deliver)

    def _time_for_all(self) -> bool:
        """Whether what is held back is due."""
        return len(self._open) <= FEW or time.perf_counter() - self._told_all >= self.stream_interval

    def _tell(self, call: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(call, *arguments)

    def _deliver(self) -> None:
        """Tells answers that have something new: at their beginnings and ends at once, else all together."""
        self._woken = False
        if everybody := self._time_for_all():
            self._told_all = time.perf_counter()
        for answer in list(self._open):
            request, finished = answer.request, answer.finished
            due = everybody or finished or answer.seen <= 0
            if due and request is not None and len(request.output) != answer.seen:
                for tell in self.on_news:
                    tell(answer)
                answer.seen = len(request.output)
                answer.mailbox.put(answer)
            if finished:
                self._end(answer)

    def _end(self, answer: Answer) -> None:
        del self._open[answer]
        answer.closed = True
        answer.mailbox.put(answer)
        self._count(answer)
        for tell in self.on_end:
            tell(answer)

    def _count(self, ended: Answer | EmbeddingJob) -> None:
        """Counts ends for Retry-After, and failures in a row for `trouble`."""
        self._ends.append(time.monotonic())
        if ended.finish_reason != "aborted":
            self._failures = self._failures + 1 if ended.finish_reason == "error" else 0

    def _end_with(self, answers: Sequence[Answer], error: Exception) -> None:
        for answer in answers:
            answer.failure = error
            answer.cancel()
            answer.mailbox.put(answer)

    async def _watch_over(self) -> None:
        """Tells the clients of an engine that is stuck or dead, who would wait for ever."""
        while True:
            await asyncio.sleep(IDLE_SECONDS)
            open_ = len(self._open) + len(self.embeddings.open_jobs)
            if open_ and (self.beat_age() > self.stall_seconds or not self._thread.alive):
                trouble = self.trouble or "the engine does not answer"
                log.error("engine stalled", extra={"fields": {"open": open_, "why": trouble}})
                stuck, error = list(self._open), ApiError(503, trouble, code="engine_stalled")
                self.embeddings.end_all(error)
                self._end_with(stuck, error)
                for answer in stuck:
                    self._end(answer)


def _urgent(answer: Answer) -> bool:
    """Whether an answer has ended, has begun, or has just been admitted."""
    begun = answer.request is not None and answer.seen <= 0 and len(answer.request.output) != answer.seen
    return begun or answer.finished


def _cancel_all(answers: Sequence[Answer]) -> None:
    for answer in answers:
        answer.cancel()


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
