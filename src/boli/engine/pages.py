"""Pages of the KV cache: who holds which.

The cache is cut into pages of `page_size` positions. A sequence has a table that says which page
holds which of its positions, so sequences grow without being moved, and memory is handed out as it
is needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import numpy as np

from boli.engine.batch import Int32


class PagePool:
    """The pages of one runner, each in one of three states.

    - free: nobody wants it;
    - cached: no table holds it, but what it holds is kept in case it is wanted again; it is handed
      out when no page is free, longest unused first;
    - used: one or more tables hold it, whether it is kept or not.

    `free + cached + used == num_pages`, always.

    Args:
        num_pages: How many there are; they are numbered from 0.
        evicted: Told which cached page is handed out anew.

    Attributes:
        epoch: Another object after each `reset`: tables from before hold nothing.
    """

    def __init__(self, num_pages: int, evicted: Callable[[int], None]) -> None:
        self.num_pages = num_pages
        self._evicted = evicted
        self.reset()

    def reset(self) -> None:
        """Makes all pages free."""
        self.epoch = object()
        self._holders = [0] * self.num_pages
        self._free = list(range(self.num_pages - 1, -1, -1))
        self._kept: set[int] = set()
        self._cached: OrderedDict[int, None] = OrderedDict()  # longest unused first

    @property
    def free(self) -> int:
        """How many pages nobody wants."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """How many pages are kept and held by no table."""
        return len(self._cached)

    @property
    def used(self) -> int:
        """How many pages tables hold, counted one by one."""
        return sum(1 for holders in self._holders if holders)

    @property
    def available(self) -> int:
        """How many pages can be taken."""
        return len(self._free) + len(self._cached)

    def holders(self, page: int) -> int:
        """How many tables hold a page."""
        return self._holders[page]

    def take(self) -> int:
        """Hands out a page, held once: a free one, or the cached one that was unused longest.

        Raises:
            KeyError: All pages are used.
        """
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._cached.popitem(last=False)
            self._kept.remove(page)
            self._evicted(page)
        self._holders[page] = 1
        return page

    def share(self, page: int) -> None:
        """Adds a holder to a page that is used or cached.

        Raises:
            ValueError: The page is free.
        """
        if not self._holders[page]:
            if page not in self._kept:
                raise ValueError(f"page {page} is free and cannot be shared")
            del self._cached[page]
        self._holders[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Takes a holder away from pages; those without any are cached if they are kept, or free.

        Raises:
            ValueError: A page is not used.
        """
        for page in pages:
            if not self._holders[page]:
                raise ValueError(f"page {page} is not used and cannot be released")
            self._holders[page] -= 1
            if not self._holders[page]:
                if page in self._kept:
                    self._cached[page] = None
                else:
                    self._free.append(page)

    def keep(self, page: int) -> None:
        """Makes a used page one that will be cached when its last holder lets go."""
        self._kept.add(page)

    def discard(self, page: int) -> None:
        """Makes a cached page free."""
        del self._cached[page]
        self._kept.remove(page)
        self._free.append(page)


class PageTable:
    """The pages of one sequence, in order of position.

    Args:
        pool: Where pages come from.
        page_size: Positions in a page.
        context: The most positions that a sequence can have.

    Attributes:
        entries: int32 `[max_pages]`; the first `len(self)` are valid.
        shared: How many of those, from the first on, are in the prefix tree. Others may hold them
            too, so they are never written to again.
    """

    def __init__(self, pool: PagePool, page_size: int, context: int) -> None:
        self._pool = pool
        self._page_size = page_size
        self.entries: Int32 = np.zeros(-(-context // page_size), np.int32)
        self.shared = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def room(self) -> int:
        """How many positions its pages hold."""
        return self._count * self._page_size

    def reserve(self, length: int) -> bool:
        """Takes pages for positions 0 to `length - 1`: all that are missing, or none and False."""
        missing = -(-length // self._page_size) - self._count
        if missing > self._pool.available:
            return False
        for _ in range(missing):
            self.entries[self._count] = self._pool.take()
            self._count += 1
        return True

    def truncate(self, length: int) -> None:
        """Releases the pages behind position `length - 1`, the last one first.

        The order matters: of a sequence's cached pages, the last one is unused longest.
        """
        keep = min(self._count, -(-length // self._page_size))
        self._pool.release(self.entries[keep : self._count][::-1].tolist())
        self._count = keep
        self.shared = min(self.shared, keep)

    def adopt(self, page: int) -> None:
        """Puts a page of the tree behind the shared ones, in place of an own page if there is one."""
        self._pool.share(page)
        if self.shared < self._count:
            self._pool.release([int(self.entries[self.shared])])
        else:
            self._count += 1
        self.entries[self.shared] = page
        self.shared += 1
