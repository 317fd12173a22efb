"""Pages and their holders."""

from __future__ import annotations

import pytest

from boli.engine.pages import PagePool, PageTable


def make_pool(num_pages: int) -> tuple[PagePool, list[int]]:
    """A pool, and the pages that were evicted from it."""
    evicted: list[int] = []
    return PagePool(num_pages, evicted.append), evicted


def counts(pool: PagePool) -> tuple[int, int, int]:
    return pool.free, pool.cached, pool.used


def test_every_page_is_handed_out_once() -> None:
    pool, _ = make_pool(5)
    assert sorted(pool.take() for _ in range(5)) == [0, 1, 2, 3, 4]
    assert counts(pool) == (0, 0, 5)
    with pytest.raises(KeyError):
        pool.take()


def test_a_shared_page_is_free_when_its_last_holder_lets_go() -> None:
    pool, _ = make_pool(2)
    page = pool.take()
    pool.share(page)
    pool.release([page])
    assert (counts(pool), pool.holders(page)) == ((1, 0, 1), 1)
    pool.release([page])
    assert (counts(pool), pool.holders(page)) == ((2, 0, 0), 0)


def test_a_kept_page_is_cached_when_its_last_holder_lets_go_and_can_be_shared_again() -> None:
    pool, evicted = make_pool(2)
    page = pool.take()
    pool.keep(page)
    assert counts(pool) == (1, 0, 1)
    pool.release([page])
    assert (counts(pool), pool.available) == ((1, 1, 0), 2)
    pool.share(page)
    assert (counts(pool), pool.available) == ((1, 0, 1), 1)
    pool.release([page])
    pool.discard(page)
    assert (counts(pool), evicted) == ((2, 0, 0), [])


def test_cached_pages_are_handed_out_when_none_is_free_longest_unused_first() -> None:
    pool, evicted = make_pool(4)
    pages = [pool.take() for _ in range(3)]
    for page in pages:
        pool.keep(page)
    pool.release([pages[1], pages[0], pages[2]])
    pool.share(pages[1])
    pool.release([pages[1]])
    assert pool.take() not in pages
    assert [pool.take() for _ in range(3)] == evicted == [pages[0], pages[2], pages[1]]
    pool.release(pages)
    assert counts(pool) == (3, 0, 1), "an evicted page is kept no longer"


def test_unused_pages_can_be_neither_shared_nor_released() -> None:
    pool, _ = make_pool(2)
    with pytest.raises(ValueError, match="page 1 is free"):
        pool.share(1)
    with pytest.raises(ValueError, match="page 1 is not used"):
        pool.release([1])
    page = pool.take()
    pool.keep(page)
    pool.release([page])
    with pytest.raises(ValueError, match="is not used"):
        pool.release([page])
    assert counts(pool) == (1, 1, 0)


def test_reset_frees_everything() -> None:
    pool, _ = make_pool(3)
    page, kept = pool.take(), pool.take()
    pool.share(page)
    pool.keep(kept)
    pool.release([kept])
    pool.reset()
    assert counts(pool) == (3, 0, 0)


def test_a_table_grows_by_whole_pages_or_not_at_all() -> None:
    pool, _ = make_pool(4)
    table = PageTable(pool, page_size=8, context=100)
    assert len(table.entries) == 13
    assert table.reserve(8)
    assert (len(table), table.room) == (1, 8)
    assert table.reserve(9)
    assert table.reserve(9)
    assert not table.reserve(33)
    assert (len(table), pool.free) == (2, 2)
    assert table.reserve(32)
    assert table.reserve(5)
    assert sorted(table.entries[:4].tolist()) == [0, 1, 2, 3]


def test_truncating_keeps_the_first_pages() -> None:
    pool, _ = make_pool(4)
    table = PageTable(pool, page_size=8, context=32)
    table.reserve(32)
    first = table.entries[:2].tolist()
    table.truncate(9)
    assert (len(table), pool.free, table.entries[:2].tolist()) == (2, 2, first)
    table.truncate(100)
    assert len(table) == 2
    table.truncate(0)
    assert (len(table), pool.free) == (0, 4)


def test_a_table_lets_go_of_its_last_page_first() -> None:
    pool, evicted = make_pool(3)
    table = PageTable(pool, page_size=8, context=24)
    table.reserve(24)
    pages = table.entries.tolist()
    for page in pages:
        pool.keep(page)
    table.truncate(0)
    for _ in pages:
        pool.take()
    assert evicted == pages[::-1]


def test_an_adopted_page_takes_the_place_of_an_own_one_or_of_none() -> None:
    pool, _ = make_pool(4)
    donor, table = (PageTable(pool, page_size=8, context=24) for _ in range(2))
    donor.reserve(16)
    table.reserve(8)
    first, second = donor.entries[:2].tolist()
    table.adopt(first)
    assert (len(table), table.shared, counts(pool)) == (1, 1, (2, 0, 2))
    table.adopt(second)
    assert (len(table), table.shared, table.entries[:2].tolist()) == (2, 2, [first, second])
    assert pool.holders(first) == pool.holders(second) == 2
    table.truncate(8)
    assert (table.shared, pool.holders(second)) == (1, 1)
