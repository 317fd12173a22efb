"""One request, from the moment it is submitted to its one end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from boli.engine.constraint import Constraint
from boli.engine.pages import PageTable
from boli.engine.prefix import Salt
from boli.engine.sampling import Sampled, Sampler, SamplingParams
from boli.engine.waits import Waits

if TYPE_CHECKING:
    from boli.engine.speculation import Guesses

State = Literal["waiting", "running", "finished"]

# Why a request ended:
#   stop     the listener asked for it: an end token or a stop string; or a constraint is fulfilled
#   length   max_tokens, or the end of the context
#   aborted  the caller lost interest
#   error    `Request.error` says what
FinishReason = Literal["stop", "length", "aborted", "error"]

Listener = Callable[[Sampled], bool]


class Request:
    """A prompt on its way to becoming a text; plain data that the scheduler and the engine change.

    Attributes:
        tokens: The prompt's tokens, then the generated ones.
        prompt_length: How many are the prompt's.
        limit: How many there may be in the end.
        computed: How many have their keys and values in the cache.
        table: The pages of those.
        salt: Pages are only shared with requests of the same salt.
        reused: How many prompt tokens came from the prefix tree when it first ran.
        preemptions: How often it had to give its pages back.
        waits: Why it waited, and for how long.
        constraint: What the answer must be; None for anything.
        prompt_logprobs: If the prompt's own tokens are to be scored, with how many likely others each.
        prompt_scores: Those scores from the second token on, as far as they are computed.
        output: What was sampled, in order.
        guesses: What it guesses its next tokens with, if it does.
        listener: Called with each sampled token, inside the step; True ends the request.
        finish_reason: Set once, when the state becomes `finished`.
        error: What went wrong, if that was the reason.
        started, first_token, finished_at: Times on the monotonic clock, seconds; 0 if not reached.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        limit: int,
        table: PageTable,
        listener: Listener | None = None,
        salt: Salt = None,
        guesses: Guesses | None = None,
        constraint: Constraint | None = None,
        prompt_logprobs: int | None = None,
    ) -> None:
        self.tokens = list(prompt_ids)
        self.prompt_length = len(self.tokens)
        self.limit = limit
        self.table = table
        self.sampler = Sampler(params, self.tokens, constraint)
        self.constraint = constraint
        self.listener = listener
        self.salt = salt
        self.guesses = guesses
        self.state: State = "waiting"
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.computed = 0
        self.reused = 0
        self.preemptions = 0
        self.waits = Waits()
        self.prompt_logprobs = prompt_logprobs
        self.prompt_scores: list[Sampled] = []
        self.output: list[Sampled] = []
        self.started = 0.0
        self.first_token = 0.0
        self.finished_at = 0.0

    @property
    def finished(self) -> bool:
        """Whether it has reached its end."""
        return self.state == "finished"

    @property
    def pending(self) -> int:
        """How many tokens wait to be computed; 1 while it decodes."""
        return len(self.tokens) - self.computed

    @property
    def scoring(self) -> bool:
        """Whether there are tokens of the prompt that still want a score."""
        return self.prompt_logprobs is not None and len(self.prompt_scores) < self.prompt_length - 1

    def append(self, sampled: Sampled) -> None:
        """Adds a generated token."""
        if not self.output:
            self.first_token = time.perf_counter()
        self.output.append(sampled)
        self.tokens.append(sampled.id)
        if self.guesses is not None:
            self.guesses.drafter.extend([sampled.id])

    def end(self, reason: FinishReason, error: Exception | None = None) -> None:
        """Enters the one state that is never left."""
        self.state, self.finish_reason, self.error = "finished", reason, error
        self.finished_at = time.perf_counter()
