"""One request, from the moment it is submitted to its one end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

from boli.engine.pages import PageTable
from boli.engine.sampling import Sampled, Sampler, SamplingParams

State = Literal["waiting", "running", "finished"]

# Why a request ended:
#   stop     the listener asked for it: an end token or a stop string
#   length   max_tokens, or the end of the context
#   aborted  the caller lost interest
#   error    `Request.error` says what
FinishReason = Literal["stop", "length", "aborted", "error"]

Listener = Callable[[Sampled], bool]


class Session:
    """Keys and values that outlive a request, so that the next one need not compute them again.

    One request at a time uses a session. Between requests its pages may be taken away when others
    need them; then the next request computes its whole prompt, with the same result.

    Attributes:
        tokens: The tokens whose keys and values are in `table`, from position 0.
        table: Their pages.
        request: The unfinished request that uses this session, if any.
        closed: No further request is wanted; pages are not kept.
    """

    def __init__(self, table: PageTable) -> None:
        self.tokens: list[int] = []
        self.table = table
        self.request: Request | None = None
        self.closed = False

    def forget(self, table: PageTable) -> None:
        """Starts again with an empty table, in use by nobody."""
        self.tokens = []
        self.table = table
        self.request = None

    def reusable(self, tokens: Sequence[int]) -> int:
        """How many of these tokens it holds, from the first on; never all, as the last gives logits."""
        limit = min(len(self.tokens), len(tokens) - 1)
        for position in range(limit):
            if self.tokens[position] != tokens[position]:
                return position
        return limit


class Request:
    """A prompt on its way to becoming a text; plain data that the scheduler and the engine change.

    Attributes:
        tokens: The prompt's tokens, then the generated ones.
        prompt_length: How many are the prompt's.
        limit: How many there may be in the end.
        computed: How many have their keys and values in the cache.
        table: The pages of those.
        reused: How many prompt tokens came from the session.
        output: What was sampled, in order.
        listener: Called with each sampled token, inside the step; True ends the request.
        session: Where the pages come from and go to, if anywhere.
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
        session: Session | None = None,
    ) -> None:
        self.tokens = list(prompt_ids)
        self.prompt_length = len(self.tokens)
        self.limit = limit
        self.table = table
        self.sampler = Sampler(params, self.tokens)
        self.listener = listener
        self.session = session
        self.state: State = "waiting"
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.computed = 0
        self.reused = 0
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

    def append(self, sampled: Sampled) -> None:
        """Adds a generated token."""
        if not self.output:
            self.first_token = time.perf_counter()
        self.output.append(sampled)
        self.tokens.append(sampled.id)

    def end(self, reason: FinishReason, error: Exception | None = None) -> None:
        """Enters the one state that is never left."""
        self.state, self.finish_reason, self.error = "finished", reason, error
        self.finished_at = time.perf_counter()
