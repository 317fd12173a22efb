"""Why a request waited for its turn: the queue before it, and then what it lacked as the first in line."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

# What a request waits for:
#   queue    others came first
#   places   as many requests run as may
#   pages    the KV cache has too few free pages for it
#   rows     prompts that came first take all rows of the steps
Reason = Literal["queue", "places", "pages", "rows"]


@dataclass(slots=True)
class Waits:
    """The waiting of one request, in seconds on the monotonic clock.

    Attributes:
        behind: How many were in the queue when it came.
        pages_short: The most pages that it lacked at once.
        seconds: How long it waited for what.
        reason: What it waits for now; None for nothing.
    """

    behind: int = 0
    pages_short: int = 0
    seconds: dict[Reason, float] = field(default_factory=dict)
    reason: Reason | None = None
    _since: float = 0.0

    def turn(self, reason: Reason | None, pages_short: int = 0) -> None:
        """From now on it waits for something else; None for nothing."""
        now = time.perf_counter()
        if self.reason is not None:
            self.seconds[self.reason] = self.seconds.get(self.reason, 0.0) + now - self._since
        self.reason, self._since = reason, now
        self.pages_short = max(self.pages_short, pages_short)

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.seconds.values())

    def __str__(self) -> str:
        """In words, without what took less than a millisecond: `queued behind 3 for 0.2 s, …`."""
        words = {
            "queue": f"queued behind {self.behind}",
            "places": "all places taken",
            "pages": f"{self.pages_short} pages short",
            "rows": "other prompts first",
        }
        long = [f"{words[reason]} for {took:.3f} s" for reason, took in self.seconds.items() if took >= 0.001]
        return ", ".join(long) or "did not wait"
