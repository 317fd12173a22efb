"""An audit of an engine's books: who holds which page, counted again from the tables and the tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from boli.engine.engine import Engine
from boli.engine.request import Request


def audit(engine: Engine, requests: Iterable[Request]) -> None:
    """Checks every count of pages, and that no page is where it must not be.

    Args:
        engine: Between two steps.
        requests: All that may hold pages.
    """
    scheduler = engine.scheduler
    pool, tree = scheduler.pool, scheduler.tree
    tables = [request.table for request in requests]
    holders = Counter(page for table in tables for page in table.entries[: len(table)].tolist())
    in_tree = [page for page in range(pool.num_pages) if page in tree]
    assert pool.free + pool.cached + pool.used == pool.num_pages
    assert pool.used == len(holders)
    assert pool.cached == len(set(in_tree) - set(holders))
    for page in range(pool.num_pages):
        assert pool.holders(page) == holders[page]
    for request in requests:
        table = request.table
        shared, own = (
            table.entries[: table.shared].tolist(),
            table.entries[table.shared : len(table)].tolist(),
        )
        assert all(page in tree for page in shared)
        assert not any(page in tree for page in own), "a page that may still be written to is shared"
        assert all(holders[page] == 1 for page in own)
        if request.state == "running":
            assert table.shared == request.computed // scheduler.page_size
            assert len(request.tokens) - request.computed >= 1
            assert request.computed <= table.room < len(request.tokens) + 1 + scheduler.page_size
        else:
            assert len(table) == 0
