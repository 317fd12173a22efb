"""How much of a prompt fits into a step without making the answers beside it wait."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Final

STEP_SECONDS: Final = 0.05  # of a step that serves answers: twenty tokens a second read as one text
LEAST: Final = 16  # rows: what it takes to read the weights once for several
STEP: Final = 8  # rows: budgets are multiples of it
SEEN: Final = 5  # steps: the machine's own hiccups are few among them


class Pace:
    """Learns what a row of a prompt costs, and from that how many a step takes beside answers.

    A row costs more the more positions it looks back on, and on a larger model: a fixed number of rows is
    too few for one prompt and too many for another. Which rows share a step changes no bit of a result.

    Args:
        most: The most rows, however fast they are.
        seconds: What a step may take.

    Attributes:
        rows: How many rows of prompts a step takes; few until a step has been seen.
    """

    def __init__(self, most: int, seconds: float = STEP_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._costs: deque[float] = deque(maxlen=SEEN)
        self.rows = min(LEAST, most)

    def observe(self, rows: int, seconds: float) -> None:
        """Enters what a step of so many rows took; steps of few rows say nothing of prompts."""
        if rows < min(LEAST, self._most):
            return
        self._costs.append(seconds / rows)
        fits = int(self._seconds / max(statistics.median(self._costs), 1e-9))
        self.rows = min(self._most, max(LEAST, fits // STEP * STEP))
