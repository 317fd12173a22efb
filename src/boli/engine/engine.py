"""The step loop: schedule, forward, sample, publish."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from boli.engine.atomic import Books
from boli.engine.batch import Float32, Int64, Runner
from boli.engine.capacity import MAX_SEQUENCES
from boli.engine.constraint import Constraint
from boli.engine.pace import Pace
from boli.engine.prefix import Salt
from boli.engine.request import FinishReason, Listener, Request
from boli.engine.sampling import SamplingParams, with_logprobs
from boli.engine.scheduler import Scheduler, Work, batch_of
from boli.engine.speculation import Speculation
from boli.errors import ContextLengthExceeded, PromptError, SamplingError, UsageError

PREFILL_BUDGET = 64  # of a step that also serves answers: many times what reads the weights once for several


class Engine:
    """Runs many requests on one runner.

    Safe to use from many threads: one lock, held for one step at a time. Whoever wants progress calls
    `step`; each step serves all requests, so it does not matter who calls.

    What goes wrong in one request ends that request only: a step that the runner cannot do is done again,
    each request by itself. A step that is interrupted (Ctrl-C) while the runner works has not happened;
    interrupted in the books, all requests end as `aborted`. The engine stays usable in each case.

    Args:
        runner: Turns tokens into logits.
        context: The most tokens of a request, prompt and answer together.
        max_sequences: The most requests in a step; others wait.
        prefill_budget: The most rows of prompts in a step that serves answers too; fewer where it is slow.
        speculation: Guesses tokens that are verified several in a step; None does without.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        context: int,
        max_sequences: int = MAX_SEQUENCES,
        prefill_budget: int = PREFILL_BUDGET,
        speculation: Speculation | None = None,
    ) -> None:
        self.runner = runner
        self.speculation = speculation
        self.context = context
        self.vocab_size = runner.blueprint.config.vocab_size
        self.scheduler = Scheduler(
            num_pages=runner.num_pages,
            page_size=runner.page_size,
            context=context,
            max_rows=runner.max_rows,
            max_sequences=min(max_sequences, runner.max_rows),
            prefill_budget=prefill_budget,
        )
        self._pace = Pace(prefill_budget)
        # Rows that want logits, with guesses: no more than plain decoding of a full house.
        self._draft_rows = min(max(max_sequences, MAX_SEQUENCES), runner.max_rows)
        self._lock = threading.RLock()
        self._stepping = False
        self._contained = False
        self._books = Books(self._reset, self.scheduler.settled)
        self._later: deque[Callable[[], None]] = deque()
        self._unfinished: dict[Request, None] = {}
        self._closed = False

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        listener: Listener | None = None,
        salt: Salt = None,
        constraint: Constraint | None = None,
        prompt_logprobs: int | None = None,
    ) -> Request:
        """Puts a request into the queue.

        Args:
            prompt_ids: At least one token.
            params: How to sample.
            listener: Called with each new token, inside the step; returning True ends the request.
            salt: What others have computed is used again only if they have the same.
            constraint: What the answer must be; requests may share one.
            prompt_logprobs: If given, the prompt's tokens are scored too, and this many likely others each.

        Raises:
            PromptError: The prompt is empty or holds an id that is not in the vocabulary.
            SamplingError: A bias is for an id that is not in the vocabulary.
            ContextLengthExceeded: It leaves no room for an answer.
            UsageError: The engine is closed.
        """
        self.check(prompt_ids)
        if params.logit_bias and (high := params.logit_bias[-1][0]) >= self.vocab_size:
            raise SamplingError(
                f"logit_bias names token {high}, which is not in the vocabulary",
                cause=f"ids go from 0 to {self.vocab_size - 1}",
            )
        if constraint is not None and constraint.vocab_size != self.vocab_size:
            raise ValueError(f"a constraint of {constraint.vocab_size} tokens for {self.vocab_size}")
        request = Request(
            prompt_ids,
            params,
            limit=min(len(prompt_ids) + params.max_tokens, self.context),
            table=self.scheduler.new_table(),
            listener=listener,
            salt=salt,
            guesses=None if self.speculation is None else self.speculation.begin(prompt_ids),
            constraint=constraint,
            prompt_logprobs=prompt_logprobs,
        )
        with self._lock:
            if self._closed:
                raise UsageError("the model is closed", remedy="load it again")
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
                # Clients of the server that do not read the code know it by the first words.
                f"the prompt is too long: it has {len(prompt_ids):,} tokens; "
                f"the context holds {self.context:,}",
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
            self._stepping, self._contained = True, False
            try:
                return self._step()
            except Exception:
                if not self._contained:  # else the request that it happened in has it
                    raise
                return True
            finally:
                self._stepping = False
                self._settle()

    def _step(self) -> bool:
        with self._books:
            self.scheduler.prefill_budget = self._pace.rows
            works = self.scheduler.schedule()
            if self.speculation is not None:
                works = self.speculation.draft(works, self._draft_rows)
        if not works:
            return False
        batch, start = batch_of(works), time.perf_counter()
        try:
            logits = self.runner.forward(batch)
        except Exception as error:  # whatever it is, it ends the request that cannot be computed alone
            self._one_by_one(works, error)
            return True
        seconds = time.perf_counter() - start
        with self._books:
            self._pace.observe(len(batch.token_ids), seconds)
            if self.speculation is not None:
                self.speculation.observe(works, seconds)
            self._publish(works, logits, self.runner.likeliest)
        return True

    def _one_by_one(self, works: list[Work], error: Exception) -> None:
        """Does the work of a step that failed, each request by itself: neighbours change no bits of it."""
        if len(works) == 1:
            with self._books:
                self._finish(works[0].request, "error", error)
            return
        for work in works:
            try:
                logits = self.runner.forward(batch_of([work]))
            except Exception as its_own:
                self._one_by_one([work], its_own)
            else:
                with self._books:
                    self._publish([work], logits, self.runner.likeliest)

    def abort(self, request: Request, *, wait: bool = True) -> None:
        """Ends a request, in any state, from any thread; nothing happens if it has ended.

        Args:
            request: The request.
            wait: False leaves it to the next step and takes no lock, as finalizers must, which run
                anywhere.
        """
        self._change(lambda: self._finish(request, "aborted"), wait)

    def close(self) -> None:
        """Ends all requests and the runner. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._reset(None)
                self.runner.close()

    def _publish(self, works: list[Work], logits: Float32, likeliest: Int64) -> None:
        """Books what was computed, and gives tokens to each request where they are due."""
        end = 0
        for work in works:
            request, reason = work.request, None
            start, end = end, end + work.outputs
            first, request.computed = request.computed, request.computed + work.count
            if end > start:
                try:
                    if work.scored:
                        _score(request, first, logits[start:end])
                        start = end - 1
                    if request.computed == len(request.tokens):
                        reason = self._advance(work, logits[start:end], likeliest[start:end])
                except Exception as error:  # its neighbours go on
                    self._finish(request, "error", error)
                    continue
            if reason is None:
                self.scheduler.share(request)
            else:
                self._finish(request, reason)

    def _advance(self, work: Work, logits: Float32, likeliest: Int64) -> FinishReason | None:
        """Samples a request's next token, and another one behind each guess that was right.

        Returns:
            Why it ends, if it does.
        """
        request, accepted = work.request, 0
        reason: FinishReason | None = None
        for row, best, guess in zip(logits, likeliest.tolist(), (*work.draft, None), strict=True):
            token = request.sampler.sample(row, len(request.output), best)
            request.append(token)
            accepted += token.id == guess
            heard = request.listener is not None and request.listener(token)
            if heard or request.sampler.finished:
                reason = "stop"
            elif len(request.tokens) >= request.limit:
                reason = "length"
            if reason is not None or token.id != guess:
                break
            request.computed += 1
        if work.draft and request.guesses is not None:
            request.guesses.verified(len(work.draft), accepted)
            request.table.truncate(len(request.tokens))
        return reason

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
        """Forgets pages and measurements: the way back from books left half-written.

        If it is known in whose work an error was raised, that request ends, and the others are computed
        again from their first token on; if not, all end.
        """
        failure = error if isinstance(error, Exception) else None
        culprit, self.scheduler.at = self.scheduler.at, None
        self.scheduler.reset()
        if self.speculation is not None:
            self.speculation.forget()
        self._contained = contained = failure is not None and culprit in self._unfinished
        for request in list(self._unfinished):
            if contained and request is not culprit:
                self.scheduler.restart(request)
            else:
                del self._unfinished[request]
                request.end("aborted" if failure is None else "error", failure)


def _score(request: Request, first: int, logits: Float32) -> None:
    """Scores the prompt's tokens that follow the rows of a step, which begins at position `first`."""
    known, count = len(request.prompt_scores), request.prompt_logprobs or 0
    # What was computed twice, after a preemption, is not scored twice.
    for position in range(max(first, known), min(first + len(logits), request.prompt_length - 1)):
        token = request.tokens[position + 1]
        request.prompt_scores.append(with_logprobs(logits[position - first], token, count))
