"""The step loop: schedule, forward, sample, publish."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from weakref import WeakSet

from boli.engine.batch import Float32, Runner
from boli.engine.request import FinishReason, Listener, Request, Session
from boli.engine.sampling import Sampled, SamplingParams
from boli.engine.scheduler import Scheduler, Work, batch_of
from boli.errors import ContextLengthExceeded, PromptError, UsageError


class Engine:
    """Runs many requests on one runner.

    Safe to use from many threads: one lock, held for one step at a time. Whoever wants progress calls
    `step`; each step serves all requests, so it does not matter who calls.

    What goes wrong in one request ends that request only. An exception out of the runner ends the
    requests of that step. A step that is interrupted (Ctrl-C) while the runner works has not happened;
    interrupted in the books, all requests end as `aborted`. The engine stays usable in each case.

    Args:
        runner: Turns tokens into logits.
        context: The most tokens of a request, prompt and answer together.
        max_sequences: The most requests in a step; others wait.
        chunk: The most tokens of one prompt in a step; `runner.max_rows` if left out.
    """

    def __init__(
        self, runner: Runner, *, context: int, max_sequences: int = 8, chunk: int | None = None
    ) -> None:
        self.runner = runner
        self.context = context
        self.vocab_size = runner.blueprint.config.vocab_size
        self.scheduler = Scheduler(
            num_pages=runner.num_pages,
            page_size=runner.page_size,
            context=context,
            max_rows=runner.max_rows,
            max_sequences=min(max_sequences, runner.max_rows),
            chunk=chunk,
        )
        self._lock = threading.RLock()
        self._stepping = False
        self._books = _Books(self._reset)
        self._later: deque[Callable[[], None]] = deque()
        self._unfinished: dict[Request, None] = {}
        self._sessions: WeakSet[Session] = WeakSet()
        self._closed = False

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        listener: Listener | None = None,
        session: Session | None = None,
    ) -> Request:
        """Puts a request into the queue.

        Args:
            prompt_ids: At least one token.
            params: How to sample.
            listener: Called with each new token, inside the step; returning True ends the request.
            session: Where computed tokens come from, and are left for the next request.

        Raises:
            PromptError: The prompt is empty or holds an id that is not in the vocabulary.
            ContextLengthExceeded: It leaves no room for an answer.
            UsageError: The session is in use, or the engine is closed.
        """
        self.check(prompt_ids)
        request = Request(
            prompt_ids,
            params,
            limit=min(len(prompt_ids) + params.max_tokens, self.context),
            table=self.scheduler.new_table(),
            listener=listener,
            session=session,
        )
        with self._lock:
            if self._closed:
                raise UsageError("the model is closed", remedy="load it again")
            if session is not None and session.request is not None:
                raise UsageError("the session is in use", remedy="end or close the request before")
            self._settle()
            with self._books:
                self._unfinished[request] = None
                self.scheduler.add(request)
        return request

    def check(self, prompt_ids: Sequence[int]) -> None:
        """Says whether `submit` would take this prompt, by raising what it would raise."""
        if not len(prompt_ids):
            raise PromptError("the prompt is empty", remedy="write at least one character")
        if len(prompt_ids) >= self.context:
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt_ids):,} tokens; the context holds {self.context:,}",
                cause="prompt and answer share the context, and the answer needs at least one token",
                remedy="shorten the prompt"
                + (
                    ", or load the model with a larger context"
                    if self.context < self.runner.blueprint.config.max_position_embeddings
                    else "; the model was made for no more"
                ),
            )
        low, high = min(prompt_ids), max(prompt_ids)
        if low < 0 or high >= self.vocab_size:
            raise PromptError(
                f"token id {low if low < 0 else high} is not in the vocabulary",
                cause=f"ids go from 0 to {self.vocab_size - 1}",
            )

    def step(self) -> bool:
        """Advances all requests that can be: one step.

        Returns:
            Whether there was anything to do.
        """
        with self._lock:
            self._settle()
            self._stepping = True
            try:
                return self._step()
            finally:
                self._stepping = False
                self._settle()

    def _step(self) -> bool:
        with self._books:
            works = self.scheduler.schedule()
        if not works:
            return False
        try:
            logits = self.runner.forward(batch_of(works))
        except Exception as error:  # whatever it is, it ends these requests only
            with self._books:
                for work in works:
                    self._finish(work.request, "error", error)
            return True
        with self._books:
            sampled = self._sample(works, logits)
            self._publish(sampled)
        return True

    def abort(self, request: Request, *, wait: bool = True) -> None:
        """Ends a request, in any state, from any thread; nothing happens if it has ended.

        Args:
            request: The request.
            wait: False leaves it to the next step and takes no lock, as finalizers must, which run
                anywhere.
        """
        self._change(lambda: self._finish(request, "aborted"), wait)

    def session(self) -> Session:
        """A new session, empty."""
        session = Session(self.scheduler.new_table())
        self._sessions.add(session)
        return session

    def close_session(self, session: Session, *, wait: bool = True) -> None:
        """Gives a session's pages back, now or when its request ends; `wait` as for `abort`."""
        session.closed = True
        self._change(lambda: self.scheduler.drop(session), wait)

    def close(self) -> None:
        """Ends all requests and the runner. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._reset(None)
                self.runner.close()

    def _sample(self, works: list[Work], logits: Float32) -> list[tuple[Request, Sampled]]:
        """Books what was computed, and chooses a token for each request where one is due."""
        sampled: list[tuple[Request, Sampled]] = []
        due = [work.request for work in works if work.completes]
        for work in works:
            work.request.computed += work.count
        for request, row in zip(due, logits, strict=True):
            try:
                sampled.append((request, request.sampler.sample(row, len(request.output))))
            except Exception as error:  # its neighbours go on
                self._finish(request, "error", error)
        return sampled

    def _publish(self, sampled: list[tuple[Request, Sampled]]) -> None:
        """Gives each request its token, tells its listener, and ends it if it is time."""
        for request, token in sampled:
            request.append(token)
            try:
                stop = request.listener is not None and request.listener(token)
            except Exception as error:  # its neighbours go on
                self._finish(request, "error", error)
                continue
            if stop or len(request.tokens) >= request.limit:
                self._finish(request, "stop" if stop else "length")

    def _finish(self, request: Request, reason: FinishReason, error: Exception | None = None) -> None:
        self.scheduler.finish(request, reason, error)
        self._unfinished.pop(request, None)

    def _change(self, change: Callable[[], None], wait: bool) -> None:
        self._later.append(change)
        if wait:
            with self._lock:
                self._settle()

    def _settle(self) -> None:
        """Makes the changes that others asked for; inside a step they wait until it ends."""
        if not self._stepping:
            with self._books:
                while self._later:
                    self._later.popleft()()

    def _reset(self, error: BaseException | None) -> None:
        """Ends all requests and forgets all pages: the way back from books left half-written."""
        failure = error if isinstance(error, Exception) else None
        self.scheduler.reset()
        for session in self._sessions:
            session.forget(self.scheduler.new_table())
        for request in self._unfinished:
            request.end("aborted" if failure is None else "error", failure)
        self._unfinished.clear()


class _Books:
    """Guards a change of the books: if it does not come to its end, `undo` is called."""

    def __init__(self, undo: Callable[[BaseException], None]) -> None:
        self._undo = undo

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._undo(error)
