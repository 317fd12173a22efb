"""An answer on its way from the engine's thread to the one task that reads it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from boli.engine.output import TextListener, Timings
from boli.engine.request import FinishReason, Request
from boli.engine.sampling import Sampled, SamplingParams

if TYPE_CHECKING:
    from boli.engine.constraint import Constraint
    from boli.text import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the engine is asked to do.

    Attributes:
        prompt_ids: The prompt.
        params: How to sample, and when to end.
        salt: Only requests of the same salt profit from what this one computes.
        request_id: Made by the server; for the log.
        choice: Which of the request's answers it is.
        label: Who asks: the name of a key, never the key.
        constraint: What the answer must be.
        prompt_logprobs: If given, the tokens of the prompt get log-probabilities too, and this many likely
            others each.
        text: The prompt, if it was a text; for a replay.
        messages: The conversation, if it was one; for a replay.
    """

    prompt_ids: Sequence[int]
    params: SamplingParams
    salt: bytes | None = None
    request_id: str = ""
    choice: int = 0
    label: str = ""
    constraint: Constraint | None = None
    prompt_logprobs: int | None = None
    text: str | None = None
    messages: Sequence[Mapping[str, object]] | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What came since the piece before.

    Attributes:
        text: New text, which will not change: never half a character, nothing of a stop string.
        token_ids: The tokens that are new, the end token included.
        sampled: One entry for each of them, if log-probabilities were asked for; otherwise empty.
        finish_reason: In the last piece why it is the last.
    """

    text: str
    token_ids: tuple[int, ...]
    sampled: tuple[Sampled, ...]
    finish_reason: FinishReason | None


class Mailbox:
    """Where answers say that there is something to read. One task reads it."""

    def __init__(self) -> None:
        self._ready: dict[Answer, None] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._since = 0.0

    def put(self, answer: Answer) -> None:
        """Says that an answer has something."""
        self._ready[answer] = None
        self._wake()

    async def next(self, patience: float | None = None) -> Answer | None:
        """Waits for an answer that has something; None if nothing came for `patience` seconds."""
        if not self._ready:
            loop = asyncio.get_running_loop()
            self._since = loop.time()
            if patience is not None and self._alarm is None:
                self._alarm = loop.call_later(patience, self._ring, loop, patience)
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if not self._ready:
            return None
        answer = next(iter(self._ready))
        del self._ready[answer]
        return answer

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _ring(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        """One alarm serves many waits: when it goes off it is set anew, for what is left of the latest."""
        self._alarm = None
        left = self._since + patience - loop.time()
        if left <= 0.001:
            self._wake()
        elif self._waiter is not None:
            self._alarm = loop.call_later(left, self._ring, loop, patience)


@dataclass(eq=False, slots=True)
class Answer(AsyncIterator[Piece]):
    """An answer while it is being written; read it as an asynchronous iterator, once.

    The request ends when `cancel` is called, or when the task that reads it is cancelled. A reader that
    is slow gets fewer and larger pieces.

    Attributes:
        job: What was asked.
        request: The engine's own, once it knows it.
        submitted: When, on the monotonic clock.
        ended: Whether the last piece was read.
        closed: Whether nothing will come that has not come.
    """

    job: Job
    tokenizer: Tokenizer
    mailbox: Mailbox
    on_cancel: Callable[[Answer], None]
    submitted: float = field(default_factory=time.perf_counter)
    request: Request | None = None
    listener: TextListener = field(init=False)
    failure: Exception | None = None
    cancelled: bool = False
    ended: bool = False
    closed: bool = False
    told: float = 0.0  # when it last had something new
    seen: int = -1  # tokens that the service has told of; before it ran not even none

    def __post_init__(self) -> None:
        params = self.job.params
        self.listener = TextListener(
            self.tokenizer,
            self.job.prompt_ids,
            stop=params.stop,
            ignore_eos=params.ignore_eos,
            logprobs=params.logprobs is not None,
        )

    async def __anext__(self) -> Piece:
        """The next piece.

        Raises:
            StopAsyncIteration: The last one has been given.
            Exception: What ended the request, if an error did.
        """
        try:
            while not self.ended:
                piece = self.take()
                if piece is not None:
                    return piece
                if self.closed:  # before it ever ran
                    break
                await self.mailbox.next()
        except asyncio.CancelledError:
            self.cancel()
            raise
        raise StopAsyncIteration

    def take(self) -> Piece | None:
        """What is new, without waiting.

        Raises:
            Exception: What ended the request, if an error did.
        """
        if self.failure is not None:
            self.ended = True
            raise self.failure
        if self.request is None or self.ended:
            return None
        chunk = self.listener.take(self.request)
        if chunk is None:
            return None
        self.ended = chunk.finish_reason is not None
        if self.ended and self.request.error is not None:
            raise self.request.error
        return Piece(chunk.text, chunk.token_ids, chunk.logprobs or (), chunk.finish_reason)

    def cancel(self) -> None:
        """Ends the request, in whatever state it is; nothing happens if it has ended."""
        if not self.cancelled:
            self.cancelled = True
            self.on_cancel(self)

    @property
    def finished(self) -> bool:
        """Whether nothing will come any more."""
        return self.failure is not None or (self.request is not None and self.request.finished)

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended; `aborted` as long as it has not."""
        return (self.request and self.request.finish_reason) or "aborted"

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompt has."""
        return len(self.job.prompt_ids)

    @property
    def cached_tokens(self) -> int:
        """How many of those were not computed, because they had been."""
        return 0 if self.request is None else self.request.reused

    @property
    def completion_tokens(self) -> int:
        """How many tokens were generated so far."""
        return 0 if self.request is None else len(self.request.output)

    @property
    def text(self) -> str:
        """The text that was taken so far."""
        return self.listener.text

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended it, if one did."""
        stops = self.listener._stops
        return None if stops is None else stops.matched

    @property
    def timings(self) -> Timings | None:
        """Where the time went; None if it never ran."""
        return None if self.request is None else Timings.of(self.request, 0.0)


async def read_all(answers: Iterable[Answer]) -> None:
    """Reads answers of one mailbox to their ends; the text is in them.

    Raises:
        Exception: What ended one of them; the others are cancelled.
    """
    every = list(answers)
    try:
        for answer in every:
            async for _ in answer:
                pass
    except BaseException:
        for answer in every:
            answer.cancel()
        raise
