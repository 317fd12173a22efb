"""A turn, told in the words of another API.

What an answer is does not depend on who asks how: each API has a writer of its own, and all of them are
told the same deltas in the same order. A reply in one piece is what the writer has when it was told all.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from boli.server.answer import Answer
from boli.server.context import Context
from boli.server.sampling_fields import BoliOptions
from boli.server.sse import KEEP_ALIVE_SECONDS
from boli.server.token_text import chat_logprobs
from boli.server.turns import Delta, Turn
from boli.server.turns import Ending as Reason
from boli.server.usage import extras

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an answer ended, and what it took.

    Attributes:
        reason: `stop`, `length` or `tool_calls`.
        stop_string: The one that was found, if one was.
        prompt_tokens: Of the prompt.
        cached_tokens: How many of those were not computed, because they had been.
        completion_tokens: Generated.
        total_s: Since the request was submitted, seconds.
        prefill_s: Until the first token, from the first step on.
        decode_s: From the first token to the last.
        extra: What was asked for beyond the API, such as a receipt; a part of the reply.
    """

    reason: Reason
    stop_string: str | None = None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_s: float
    prefill_s: float
    decode_s: float
    extra: Document = field(default_factory=dict)

    @classmethod
    def of(cls, answer: Answer, reason: Reason, extra: Document) -> Ending:
        """That of an answer that has just ended."""
        timings = answer.timings
        return cls(
            reason=reason,
            stop_string=answer.stop_string,
            prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.cached_tokens,
            completion_tokens=answer.completion_tokens,
            total_s=time.perf_counter() - answer.submitted,
            prefill_s=0.0 if timings is None else timings.prefill_s,
            decode_s=0.0 if timings is None else timings.decode_s,
            extra=extra,
        )


class Writer(Protocol):
    """Writes one answer; every method gives the events that it causes.

    Attributes:
        document: The answer in one piece, when it has ended.
    """

    document: Document

    def begin(self) -> list[Document]:
        """Nothing has been said yet."""

    def text(self, delta: str, logprobs: Sequence[Document]) -> list[Document]:
        """More text, and its tokens as chat completions write them, if they were asked for."""

    def call(self, call_id: str, name: str) -> list[Document]:
        """A function is called; its arguments follow."""

    def arguments(self, delta: str) -> list[Document]:
        """More of the arguments of the call that was begun last, as JSON."""

    def end(self, ending: Ending) -> list[Document]:
        """That was all."""


async def retell(
    context: Context,
    turn: Turn,
    writer: Writer,
    *,
    logprobs: bool = False,
    options: BoliOptions | None = None,
) -> AsyncIterator[list[Document] | None]:
    """Tells a writer a turn of one choice.

    Args:
        context: Of the server.
        turn: The answer.
        writer: Of the API that was asked.
        logprobs: Whether the writer is told of them.
        options: What was asked for beyond the API.

    Yields:
        Its events as they come; None where nothing came for so long that a client should hear something.

    Raises:
        Exception: What ended the answer, if an error did.
    """
    answer = turn.answers[0]
    yield writer.begin()
    while not turn.over:
        delta = await turn.next(KEEP_ALIVE_SECONDS)
        if delta is None:
            if not turn.over:
                yield None
            continue
        told = chat_logprobs(context.llm.tokenizer, delta.sampled)["content"] if logprobs else []
        events = _tell(writer, delta, told)
        if delta.finish_reason is not None:
            extra = await extras(context, options, turn.answers)
            events += writer.end(Ending.of(answer, delta.finish_reason, extra))
        yield events


async def retold(
    context: Context,
    turn: Turn,
    writer: Writer,
    *,
    logprobs: bool = False,
    options: BoliOptions | None = None,
) -> Document:
    """The whole reply; arguments and errors as `retell`."""
    async for _ in retell(context, turn, writer, logprobs=logprobs, options=options):
        pass
    return writer.document


def _tell(writer: Writer, delta: Delta, logprobs: Sequence[Document]) -> list[Document]:
    events = writer.text(delta.text, logprobs) if delta.text or logprobs else []
    for part in delta.calls:
        if part.id is not None:
            events += writer.call(part.id, part.name or "")
        if part.arguments:
            events += writer.arguments(part.arguments)
    return events
