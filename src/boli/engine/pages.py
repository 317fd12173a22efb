"""Pages of the KV cache: who holds which.

The cache is cut into pages of `page_size` positions. A sequence has a table that says which page
holds which of its positions, so sequences grow without being moved, and memory is handed out as it
is needed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from boli.engine.batch import Int32


class PagePool:
    """The pages of one runner, each free or held one or more times.

    Args:
        num_pages: How many there are; they are numbered from 0.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.reset()

    def reset(self) -> None:
        """Makes all pages free."""
        self._holders = [0] * self.num_pages
        self._free = list(range(self.num_pages - 1, -1, -1))

    @property
    def free(self) -> int:
        """How many pages nobody holds."""
        return len(self._free)

    @property
    def used(self) -> int:
        """How many pages somebody holds; `free + used` is `num_pages`, always."""
        return sum(1 for holders in self._holders if holders)

    def take(self) -> int:
        """Hands out a free page, held once.

        Raises:
            IndexError: No page is free.
        """
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def share(self, pages: Iterable[int]) -> None:
        """Adds a holder to pages that are held.

        Raises:
            ValueError: A page is free.
        """
        for page in pages:
            if not self._holders[page]:
                raise ValueError(f"page {page} is free and cannot be shared")
            self._holders[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Takes a holder away from pages; those without any are free.

        Raises:
            ValueError: A page is free already.
        """
        for page in pages:
            if not self._holders[page]:
                raise ValueError(f"page {page} is free already")
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free.append(page)


class PageTable:
    """The pages of one sequence, in order of position.

    Args:
        pool: Where pages come from.
        page_size: Positions in a page.
        context: The most positions that a sequence can have.

    Attributes:
        entries: int32 `[max_pages]`; the first `len(self)` are valid.
    """

    def __init__(self, pool: PagePool, page_size: int, context: int) -> None:
        self._pool = pool
        self._page_size = page_size
        self.entries: Int32 = np.zeros(-(-context // page_size), np.int32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def missing(self, length: int) -> int:
        """How many pages more it takes to hold `length` positions."""
        return max(0, -(-length // self._page_size) - self._count)

    def reserve(self, length: int) -> bool:
        """Takes pages for positions 0 to `length - 1`: all that are missing, or none and False."""
        missing = self.missing(length)
        if missing > self._pool.free:
            return False
        for _ in range(missing):
            self.entries[self._count] = self._pool.take()
            self._count += 1
        return True

    def truncate(self, length: int) -> None:
        """Releases the pages behind position `length - 1`."""
        keep = min(self._count, -(-length // self._page_size))
        self._pool.release(self.entries[keep : self._count].tolist())
        self._count = keep
