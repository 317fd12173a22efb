"""An answer while it is being written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from types import TracebackType

from boli.engine.engine import Engine
from boli.engine.output import Chunk, Completion, TextListener, Timings
from boli.engine.record import Origin, RunRecord
from boli.engine.request import Request
from boli.errors import UsageError


class Stream(Iterator[Chunk]):
    """Yields chunks as the model writes; the last one carries the finish reason.

    The request has been submitted when the stream exists. It is aborted, and its memory freed, when
    the stream is closed, garbage-collected, left by `with`, or interrupted (Ctrl-C).

    Args:
        engine: Runs the request.
        request: What is being answered.
        listener: Its text.
        origin: Who was asked, and what in words; for the timings and the record.
        on_end: Called once with this stream when the request has ended in whatever way.
    """

    def __init__(
        self,
        engine: Engine,
        request: Request,
        listener: TextListener,
        *,
        origin: Origin,
        on_end: Callable[[Stream], None] | None = None,
    ) -> None:
        self._engine = engine
        self._request = request
        self._listener = listener
        self._origin = origin
        self._on_end = on_end
        self._completion: Completion | None = None

    def __next__(self) -> Chunk:
        """The next chunk.

        Raises:
            StopIteration: The last one has been given.
            Exception: What ended the request, if an error did; usually a `BoliError`.
        """
        if self._completion is not None:
            raise StopIteration
        chunk = self._advance()
        if chunk.finish_reason is not None:
            self._end()
            if self._request.error is not None:
                raise self._request.error
        return chunk

    def run(self) -> Completion:
        """Reads to the end; an error is in the completion, not raised."""
        while self._completion is None:
            if self._advance().finish_reason is not None:
                self._end()
        return self._completion

    @property
    def completion(self) -> Completion:
        """The whole answer.

        Raises:
            UsageError: It has not ended yet.
        """
        if self._completion is None:
            raise UsageError("the stream has not ended", remedy="read it to its end, or close it")
        return self._completion

    @property
    def text(self) -> str:
        """The text that has come so far."""
        return self._listener.text

    def close(self) -> None:
        """Aborts the request if it has not ended. May be called twice."""
        self._close(wait=True)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._close(wait=False)

    def _advance(self) -> Chunk:
        """Steps the engine until there is a chunk."""
        try:
            while (chunk := self._listener.take(self._request)) is None:
                self._engine.step()
        except BaseException:
            self.close()
            raise
        return chunk

    def _close(self, *, wait: bool) -> None:
        if self._completion is None:
            self._engine.abort(self._request, wait=wait)
            if self._request.finished:
                self._listener.take(self._request)
            self._end()

    def _end(self) -> None:
        request = self._request
        timings = Timings.of(request, self._origin.load_s)
        record = RunRecord.of(request, self._origin, self._listener.text, asdict(timings))
        self._completion = Completion(
            text=self._listener.text,
            token_ids=request.tokens[request.prompt_length :],
            prompt_token_ids=request.tokens[: request.prompt_length],
            finish_reason=request.finish_reason or "aborted",
            logprobs=list(request.output) if request.sampler.params.logprobs is not None else None,
            seed=request.sampler.seed,
            reused_tokens=request.reused,
            drafted_tokens=record.drafted_tokens,
            accepted_tokens=record.accepted_tokens,
            most_drafted=0 if request.guesses is None else request.guesses.most,
            timings=timings,
            record=record,
            error=request.error,
        )
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end(self)
