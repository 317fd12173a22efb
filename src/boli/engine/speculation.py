"""Several new tokens in one step: guesses that ride along and are verified by the model itself.

A request that waits for one token hands in its last token and some guesses of what follows, as rows of
one step. Each row's logits are those of plain decoding as long as the guesses before it are right, to
the last bit; and a token is drawn with a random number of its own position. So tokens are sampled in
order, and taken as long as they are what was guessed: the text is the same, at any temperature and
under any penalty. The first wrong guess is replaced by the token that was sampled in its place; what
was computed behind it is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from boli.engine.draft import Acceptance, Drafter, StepCosts
from boli.engine.scheduler import Work


@dataclass
class Guesses:
    """What one request guesses with, and how that went.

    Attributes:
        drafter: Makes guesses from the request's own tokens.
        acceptance: Says how many are worth making.
        drafted: How many tokens were guessed.
        accepted: How many of them came true.
        most: How many were verified in one step at most.
    """

    drafter: Drafter
    acceptance: Acceptance
    drafted: int = 0
    accepted: int = 0
    most: int = 0

    def verified(self, proposed: int, accepted: int) -> None:
        """Enters what became of a draft."""
        self.drafted += proposed
        self.accepted += accepted
        self.most = max(self.most, proposed)
        self.acceptance.observe(proposed, accepted)


@dataclass
class Speculation:
    """Adds guesses to steps in which they pay.

    Attributes:
        drafter: Makes the drafter of a request from its prompt.
        acceptance: Makes the judge of its guesses.
        costs: What steps take, of all requests.
    """

    drafter: Callable[[Sequence[int]], Drafter] = Drafter
    acceptance: Callable[[], Acceptance] = Acceptance
    costs: StepCosts = field(default_factory=StepCosts)

    def begin(self, prompt_ids: Sequence[int]) -> Guesses:
        """What a new request needs."""
        return Guesses(self.drafter(prompt_ids), self.acceptance())

    def draft(self, works: list[Work], max_rows: int) -> list[Work]:
        """Adds guesses to a step, to each request as many as its past and the cost of rows suggest.

        A draft takes free and cached pages, but none from another request. Beside prompts nothing is
        guessed: such a step is bound by arithmetic, and no row of it is cheap.

        Args:
            works: A step without guesses.
            max_rows: The most rows it may have with them.
        """
        if not decodes(works):
            return works
        drafted: list[Work] = []
        rows, expected = len(works), float(len(works))
        for work in works:
            request, guesses = work.request, work.request.guesses
            # The step yields a token more than there are guesses.
            most = min(max_rows - rows, request.limit - len(request.tokens) - 1)
            if guesses is None or most < 1:
                drafted.append(work)
                continue
            depth = guesses.acceptance.depth(self.costs, rows, most, expected)
            draft = guesses.drafter.propose(depth)
            if not request.table.reserve(len(request.tokens) + len(draft)):
                draft = draft[: request.table.room - len(request.tokens)]
            drafted.append(Work(request, 1, tuple(draft)))
            rows += len(draft)
            expected += sum(guesses.acceptance.rate**index for index in range(1, len(draft) + 1))
        return drafted

    def observe(self, works: list[Work], seconds: float) -> None:
        """Learns from the time that the runner took for a step."""
        if decodes(works):
            self.costs.observe(sum(work.rows for work in works), seconds)

    def forget(self) -> None:
        """Starts to measure again, as is needed when an interrupt left the table half-written."""
        self.costs = StepCosts()


def decodes(works: list[Work]) -> bool:
    """Whether each request of a step computes its last token and nothing of its prompt before it."""
    return all(work.count == 1 and work.completes for work in works)
